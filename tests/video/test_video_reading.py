"""Every container, rotation and clock that PyAV reads gives the frames that were asked for, under their own times."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from dynfocus.video_reading import read_video
from dynfocus.video_timeline import decoded
from tests.video.watermark import (
    HEIGHT,
    PRINT_PEAK_MEMORY,
    WIDTH,
    numbers_of,
    packets_of,
    turn_mp4,
    watermarked,
    write_still,
    write_video,
)

FORMATS = {
    "h264.mp4": dict(codec="libx264", options={"g": "12", "bf": "3"}),
    "h264.mkv": dict(codec="libx264", options={"g": "12", "bf": "3"}),
    "open_gop.mp4": dict(codec="libx264", options={"g": "12", "bf": "3", "x264-params": "open-gop=1:log-level=none"}),
    "hevc.mp4": dict(codec="libx265", options={"g": "12", "x265-params": "log-level=none:frame-threads=1"}),
    "h264.ts": dict(codec="libx264", options={"g": "12"}),
    "fragments.mp4": dict(options={"g": "12"}, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "no_timestamps.h264": dict(codec="libx264", options={"g": "12"}),
    "vp8.webm": dict(codec="libvpx", options={"g": "12", "deadline": "realtime"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "lossless.mkv": dict(codec="ffv1"),
    "mpeg4.avi": dict(codec="mpeg4", options={"bf": "2"}),
    "with_audio.mp4": dict(codec="libx264", with_audio=3.0),
    "animation.gif": dict(codec="gif", pix_fmt="rgb8", fps=25),
    "animation.apng": dict(codec="apng", pix_fmt="rgb24"),
}


@pytest.fixture(scope="module", params=FORMATS)
def any_format(request, tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("formats") / request.param, 40, **FORMATS[request.param])


def test_all_frames(any_format):
    clip = read_video(any_format, fps=None)
    assert numbers_of(clip.frames) == clip.frame_indices.tolist() == list(range(40))
    rate = 25 if any_format.suffix in (".gif", ".h264") else 30  # A bare stream has no clock: PyAV assumes 25.
    np.testing.assert_allclose(clip.timestamps, np.arange(40) / rate, atol=0.0051)
    assert clip.timestamps[0] == 0
    assert clip.fps == pytest.approx(rate, rel=0.01)
    assert clip.duration == pytest.approx(40 / rate, abs=0.041)
    assert (clip.total_frames, clip.frames_lost, clip.frames_damaged) == (40, 0, 0)
    assert clip.frames.shape == (40, HEIGHT, WIDTH, 3)
    assert clip.frames.dtype == np.uint8


@pytest.mark.parametrize("num_frames", [1, 2, 7, 39, 40, 100])
def test_uniform_sample(any_format, num_frames):
    clip = read_video(any_format, num_frames=num_frames)
    count = min(num_frames, 40)
    expected = [int((i + 0.5) * 40 / count) for i in range(count)]
    assert numbers_of(clip.frames) == clip.frame_indices.tolist() == expected
    assert clip.frames_lost == 0


def test_rate_sample(any_format):
    clip = read_video(any_format, fps=10)
    rate = 25 if any_format.suffix in (".gif", ".h264") else 30
    expected = [int(g * rate / 10 + 0.01) for g in range(40 * 10 // rate + 1) if g * rate < 400]
    assert numbers_of(clip.frames) == clip.frame_indices.tolist() == expected


def test_jumps_decode_little(tmp_path, monkeypatch):
    """The reader must skip what it need not decode: three frames out of 600 take three groups of 10, not 600 frames."""
    path = write_video(tmp_path / "long.mp4", 600, options={"g": "10", "bf": "0"})
    counted = 0

    def counting(container, stream):
        nonlocal counted
        for frames in decoded(container, stream):
            counted += 1
            yield frames

    monkeypatch.setattr("dynfocus.video_reading.decoded", counting)
    assert numbers_of(read_video(path, num_frames=3).frames) == [100, 300, 500]
    assert counted <= 40


def test_colours_survive(tmp_path):
    picture = read_video(write_video(tmp_path / "a.mp4", 2, options={"crf": "10"}), fps=None).frames[0].astype(int)
    reference = watermarked(0).astype(int)
    assert np.abs(picture - reference).mean() < 6
    assert np.abs(picture[-16, 16] - reference[-16, 16]).max() < 25  # the red square's middle


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif"])
def test_variable_frame_rate(tmp_path, suffix):
    milliseconds = [0, 40, 80, 500, 510, 520, 2000, 2100, 5000, 5040]
    codec = {".webm": dict(codec="libvpx-vp9"), ".gif": dict(codec="gif", pix_fmt="rgb8")}.get(suffix, {})
    path = write_video(tmp_path / f"uneven{suffix}", 10, milliseconds=milliseconds, **codec)
    clip = read_video(path, fps=None)
    assert numbers_of(clip.frames) == list(range(10))
    np.testing.assert_allclose(clip.timestamps, np.array(milliseconds) / 1000, atol=0.0051)
    # On screen at 0, 1, 2, 3, 4 and 5 s: what came last before.
    per_second = read_video(path, fps=1.0)
    assert numbers_of(per_second.frames) == per_second.frame_indices.tolist() == [0, 5, 6, 7, 8]
    np.testing.assert_allclose(per_second.timestamps, [0, 0.52, 2.0, 2.1, 5.0], atol=0.0051)


def test_counts_are_clipped(tmp_path):
    path = write_video(tmp_path / "a.mp4", 60)
    assert len(read_video(path, fps=1).frames) == 2
    assert read_video(path, fps=1, min_frames=4).frame_indices.tolist() == [7, 22, 37, 52]
    assert read_video(path, fps=30, max_frames=4).frame_indices.tolist() == [7, 22, 37, 52]
    assert len(read_video(path, fps=1, min_frames=100).frames) == 60


@pytest.mark.parametrize("fps", [7.0, 29.97, 30.0, 1000.0])
def test_high_rates_take_each_frame_once(tmp_path, fps):
    indices = read_video(write_video(tmp_path / "a.mkv", 45), fps=fps).frame_indices
    assert (np.diff(indices) > 0).all()
    assert len(indices) == (11 if fps == 7 else 45)


# a, b, c, d of the display matrix, and what it does to an array [H, W].
ORIENTATIONS = {
    "upright": ((1, 0, 0, 1), lambda picture: picture),
    "clockwise": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "half turn": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "counterclockwise": ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_rotation_metadata(tmp_path, orientation):
    matrix, turn = ORIENTATIONS[orientation]
    plain = write_video(tmp_path / "plain.mp4", 3)
    stored = read_video(plain, fps=None).frames
    clip = read_video(turn_mp4(plain, matrix), fps=None)
    np.testing.assert_array_equal(clip.frames, np.stack([turn(picture) for picture in stored]))


def test_rotation_agrees_with_the_decoder(tmp_path):
    """PyAV's own reading of the same matrix: degrees counterclockwise."""
    path = turn_mp4(write_video(tmp_path / "a.mp4", 1), (0, 1, -1, 0))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == -90


@pytest.mark.parametrize("size, expected", [(32, (32, 48)), (21, (21, 32)), (64, (64, 96)), (500, (64, 96))])
def test_size_scales_down_only(tmp_path, size, expected):
    path = write_video(tmp_path / "a.mp4", 20)
    frames = read_video(path, fps=None, size=size).frames
    assert frames.shape[1:3] == expected
    assert numbers_of(frames) == list(range(20))
    turned = read_video(turn_mp4(path, (0, 1, -1, 0)), fps=None, size=size).frames
    assert turned.shape[1:3] == expected[::-1]


@pytest.mark.parametrize("size", [(66, 50), (2, 300), (16, 16)])
def test_odd_sizes(tmp_path, size):
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    np.testing.assert_array_equal(read_video(path).frames, picture[None])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_one_frame(tmp_path, suffix):
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    clip = read_video(write_video(tmp_path / f"one{suffix}", 1, codec=codec), num_frames=32)
    assert (numbers_of(clip.frames), clip.timestamps.tolist(), clip.frames_lost) == ([0], [0.0], 0)


def test_missing_frame_counts(tmp_path):
    path = write_video(tmp_path / "a.webm", 30, codec="libvpx")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert read_video(path, num_frames=3).total_frames == 30


def test_hidden_vp8_frames_are_not_frames(tmp_path):
    """Clear a frame's show bit, as encoders do for reference frames that are never on screen."""
    path = write_video(tmp_path / "hidden.webm", 20, codec="libvpx", options={"g": "100"})
    content = bytearray(path.read_bytes())
    position = packets_of(path)[7][0]
    payload = content.index(bytes(_payload(path, 7)), position)
    content[payload] &= ~0x10
    path.write_bytes(content)
    clip = read_video(path, fps=None)
    assert numbers_of(clip.frames) == [number for number in range(20) if number != 7]
    assert (clip.total_frames, clip.frames_lost) == (19, 0)


def _payload(path: Path, number: int) -> bytes:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0)][number]


def test_an_edit_list_trims(tmp_path):
    """Packets that an mp4's edit list takes off the front are decoded but are no frames of the video."""
    source, path = write_video(tmp_path / "whole.mp4", 40, options={"g": "40", "bf": "0"}), tmp_path / "cut.mp4"
    with av.open(str(source)) as whole, av.open(str(path), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        first = 10 * 512  # frame 10, in ticks of 1 / 15360 s
        for packet in whole.demux(video=0):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
                cut.mux(packet)
    clip = read_video(path, fps=None)
    assert clip.timestamps[0] == 0
    assert numbers_of(clip.frames) == list(range(10, 40))
    assert clip.frames_lost == 0


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (dict(num_frames=0), "num_frames is 0, must be at least 1"),
        (dict(fps=0.0), "fps is 0.0"),
        (dict(fps=float("nan")), "fps is nan"),
        (dict(size=0), "size is 0"),
        (dict(min_frames=5, max_frames=4), "max_frames is 4, must be at least min_frames"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_video(tmp_path / "never_opened.mp4", **arguments)


def test_one_hour_in_bounded_memory(tmp_path):
    """3,600 frames of 460 kB at one a second: sampling 64 of them must cost little more memory than these take."""
    path = write_still(tmp_path / "hour.mp4", 3600, options={"preset": "ultrafast", "g": "60"})
    program = (
        "import sys, time\n"
        "from dynfocus.video_reading import read_video\n"
        "read_video(sys.argv[1], num_frames=1, size=160)\n"
        f"{PRINT_PEAK_MEMORY}"
        "start = time.perf_counter()\n"
        "clip = read_video(sys.argv[1], fps=1.0, max_frames=64, size=160)\n"
        f"{PRINT_PEAK_MEMORY}"
        "print(len(clip.frames), clip.timestamps[-1], clip.duration, time.perf_counter() - start)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    before, after, num_frames, last, duration, seconds = map(float, run.stdout.split())
    assert (num_frames, last, duration) == (64, 3571, 3600)
    result = 64 * 160 * 240 * 3  # bytes
    assert after - before < 3 * result + 20e6
    assert seconds < 20


@pytest.mark.parametrize("has_timestamps", [True, False])
def test_memory_per_frame_of_the_file(tmp_path, monkeypatch, has_timestamps):
    """80 bytes each: a day at 30 frames a second takes 200 MB."""
    path = write_still(tmp_path / "long.mkv", 20_000, codec="mpeg4", fps=30, size=(16, 24))
    if not has_timestamps:
        monkeypatch.setattr("dynfocus.video_reading.scan_packets", lambda file: None)
    tracemalloc.start()
    try:
        clip = read_video(path, num_frames=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert clip.total_frames == 20_000
    assert peak / clip.total_frames < 80
