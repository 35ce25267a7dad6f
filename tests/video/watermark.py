"""Small videos whose every frame says in its pixels which one it is."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, BITS = 64, 96, 10
MILLISECOND = Fraction(1, 1000)


def watermarked(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width, 3]: the number in light and dark squares along the top, a red square at the lower left."""
    picture = np.full((height, width, 3), 90, np.uint8)
    edges = [round(cell * width / (BITS + 2)) for cell in range(BITS + 3)]
    for bit in range(BITS):
        picture[edges[1] : edges[3], edges[bit + 1] : edges[bit + 2]] = 230 if number >> bit & 1 else 20
    picture[-edges[3] : -edges[1], edges[1] : edges[3]] = (220, 30, 30)
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number in a watermarked picture of any size."""
    cell = picture.shape[1] / (BITS + 2)
    bits = (picture[int(2 * cell), int((bit + 1.5) * cell)].mean() > 125 for bit in range(BITS))
    return sum(int(bit) << place for place, bit in enumerate(bits))


def numbers_of(pictures: Iterable[np.ndarray]) -> list[int]:
    return [number_of(picture) for picture in pictures]


def write_video(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 30,
    milliseconds: Sequence[int] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    with_audio: float = 0.0,
) -> Path:
    """Encode frames 0 … num_frames - 1, at `fps` or at the given times; `with_audio` seconds of silence beside them."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if milliseconds is not None:
            stream.codec_context.time_base = MILLISECOND
        sound = container.add_stream("aac" if path.suffix == ".mp4" else "libopus", rate=48000) if with_audio else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(watermarked(number, *size), format="rgb24").reformat(format=pix_fmt)
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[number], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            write_silence(container, sound, with_audio)
    return path


def write_still(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    fps: int = 1,
    size: tuple[int, int] = (320, 480),
    options: dict[str, str] | None = None,
) -> Path:
    """The same picture all along: a long video that is quickly made."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(watermarked(0, *size), format="rgb24").reformat(format="yuv420p")
        for number in range(num_frames):
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


# Prints the most memory that its process has held so far, in bytes. Not ru_maxrss, which an exec inherits.
PRINT_PEAK_MEMORY = """
import re
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]))
"""


def write_silence(container: av.container.OutputContainer, sound: av.AudioStream, seconds: float) -> None:
    for start in range(0, round(48000 * seconds), 960):
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 960), np.float32), format="fltp", layout="stereo")
        silence.sample_rate, silence.pts, silence.time_base = 48000, start, Fraction(1, 48000)
        container.mux(sound.encode(silence))
    container.mux(sound.encode())


def packets_of(path: Path) -> list[tuple[int, int, int | None]]:
    """(position in the file, size, pts) of every video packet."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size and p.pos is not None]


def break_packet(path: Path, number: int, *, spare: int = 12) -> Path:
    """Overwrite the payload of the number-th packet, but for its first bytes."""
    content = bytearray(path.read_bytes())
    position, size, _ = packets_of(path)[number]
    for at in range(position + min(spare, size // 2), position + size - 1):
        content[at] = (content[at] * 7 + 13) % 256
    path.write_bytes(content)
    return path


def turn_mp4(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a, b, c, d of the display matrix (1 is one) into the only track header of an mp4."""
    content = bytearray(path.read_bytes())
    # tkhd version 0 (ISO/IEC 14496-12): 4 of type, 4 + 32 of fields, then the matrix a b u c d v x y w, 16.16.
    start = content.index(b"tkhd") + 4 + 40
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[start + offset : start + offset + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return path
