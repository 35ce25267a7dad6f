"""When each frame of a video file is shown, learned from its packets without decoding them.

Containers lie or keep silent about their number of frames; the packets' timestamps do not. Frames are named by their
index in presentation order.
"""

import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from dynfocus.errors import DynFocusError


class VideoError(DynFocusError):
    """A file that cannot be read as a video. The message is one line and begins with the path."""


@dataclass(frozen=True)
class Timeline:
    """The frames of one video stream, one array entry per frame in presentation order.

    Attributes:
        pts: presentation timestamps in the stream's time base; None where frames must be told by counting them.
        times: seconds from the first frame.
        tick: seconds to which the container rounds times.
        is_key: decoding can begin here.
        rank: place in decoding order.
        duration: seconds from the first frame to the end of the last.
        num_cut_off: frames missing at the end, by what the container's header promises.
        codec: the decoder's name.
    """

    pts: NDArray[np.int64] | None
    times: NDArray[np.float64]
    tick: float
    is_key: NDArray[np.bool_]
    rank: NDArray[np.int64]
    duration: float
    num_cut_off: int
    codec: str

    def __len__(self) -> int:
        return len(self.times)


def check_file(file: str) -> None:
    """Raise VideoError unless `file` is a non-empty regular file that may be read."""
    try:
        status = os.stat(file)
        if stat.S_ISDIR(status.st_mode):
            problem = "is a directory, not a video"
        elif not stat.S_ISREG(status.st_mode):
            problem = "is not a regular file"
        elif status.st_size == 0:
            problem = "is empty"
        else:
            with open(file, "rb"):
                return
    except FileNotFoundError:
        problem = "no such file"
    except PermissionError:
        problem = "no permission to read it"
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise VideoError(f"{file}: {problem}")


def open_video(file: str) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open the file and find its first stream of moving pictures; the caller closes the container."""
    try:
        # An absolute path is never taken for a protocol such as "pipe:0".
        container = av.open(os.path.abspath(file), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError):
        raise VideoError(f"{file}: not a video, or damaged beyond reading") from None
    cover_art = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover_art]
    if container.format.name == "tty":
        problem = "is text, not a video"  # The demuxer of text art, which "plays" any .txt file.
    elif not streams:
        audio_only = bool(container.streams.audio)
        problem = "holds no video, only audio" if audio_only else "holds no video, or damaged beyond reading"
    elif getattr(streams[0], "codec_context", None) is None:
        problem = "is in a video codec that is not known here"
    else:
        return container, streams[0]
    container.close()
    raise VideoError(f"{file}: {problem}")


def decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[list[av.VideoFrame] | None]:
    """Decode on from where the container stands, to the file's end or to where it breaks off.

    Yields what each packet completes, in presentation order, or None for a broken packet.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packet = None
        try:
            yield stream.decode(packet)  # None drains the decoder.
        except av.error.EOFError:
            return  # The empty packet that ends demux() has drained it already.
        except av.error.FFmpegError:
            yield None
        if packet is None:
            return


def scan_packets(file: str) -> Timeline | None:
    """The timeline from the packets alone, or None where their timestamps are missing or repeated."""
    shown_at, key_flags = array("q"), bytearray()  # Hours of video: a list would take ten times the memory.
    num_packets, end_of_file, last_duration = 0, 0.0, 0.0
    container, stream = open_video(file)
    with container:
        codec = stream.codec_context.name
        try:
            for packet in container.demux():
                if packet.size == 0:
                    continue
                if packet.pts is None:
                    if packet.stream is stream:
                        return None
                    continue
                length = packet.duration or 0
                end_of_file = max(end_of_file, float((packet.pts + length) * packet.time_base))
                if packet.stream is not stream:
                    continue
                num_packets += 1
                if packet.is_discard or (codec == "vp8" and not _vp8_is_shown(packet)):
                    continue
                shown_at.append(packet.pts)
                key_flags.append(packet.is_keyframe)
                last_duration = float(length * packet.time_base)
        except av.error.FFmpegError:
            pass  # The file is cut or broken here: num_cut_off says so.
        if not shown_at:
            raise VideoError(f"{file}: holds no video frame, or is damaged beyond reading")
        pts = np.frombuffer(shown_at, dtype=np.int64)
        rank = np.argsort(pts, kind="stable")
        pts = pts[rank]
        if (np.diff(pts) == 0).any():
            return None
        tick = float(stream.time_base or 0)
        times = (pts - pts[0]) * tick
        step = float(np.median(np.diff(times))) if len(times) > 1 else last_duration
        num_cut_off = max(0, stream.frames - num_packets)
        if not stream.frames and container.duration and container.format.name.startswith(("matroska", "flv")):
            # These keep no frame count, but a length: compare it with where the last packet of any stream ends.
            missing = container.duration / av.time_base - end_of_file
            num_cut_off = round(missing / step) if step > 0 and missing > max(1.5 * step, 0.1) else 0
        return Timeline(
            pts=pts,
            times=times,
            tick=tick,
            is_key=np.frombuffer(key_flags, dtype=bool)[rank],
            rank=rank,
            duration=float(times[-1]) + (last_duration or step),
            num_cut_off=num_cut_off,
            codec=codec,
        )


def _vp8_is_shown(packet: av.Packet) -> bool:
    """RFC 6386, section 9.1: bit 4 of a frame's first byte is show_frame; hidden frames have packets of their own."""
    return bool(memoryview(packet)[0] & 0x10)


def scan_by_decoding(file: str) -> Timeline:
    """The timeline by decoding everything and keeping nothing, for files whose packets carry no usable timestamps."""
    shown_at, key_flags = array("d"), bytearray()
    container, stream = open_video(file)
    with container:
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        for frames in decoded(container, stream):
            # A broken packet takes a place of its own, so that it can be counted as lost.
            shown_at.extend([np.nan] if frames is None else [np.nan if f.time is None else f.time for f in frames])
            key_flags.extend([False] if frames is None else [f.key_frame for f in frames])
        codec = stream.codec_context.name
    times = np.frombuffer(shown_at)
    known = np.flatnonzero(~np.isnan(times))
    if len(known) > 1 and (np.diff(times[known]) > 0).all():
        times = np.interp(np.arange(len(times)), known, times[known])
        times -= times[0]
    else:
        times = np.arange(len(times)) / rate
    if not len(times):
        raise VideoError(f"{file}: not one of its frames can be decoded")
    return Timeline(
        pts=None,
        times=times,
        tick=0.0,
        is_key=np.frombuffer(key_flags, dtype=bool),
        rank=np.arange(len(times)),
        duration=float(times[-1]) + 1 / rate,
        num_cut_off=0,
        codec=codec,
    )
