"""Read chosen frames of a video file: few decoded, fewer converted, in memory bounded by the result.

The file's packets are scanned first (`video_timeline`). The wanted frames are then decoded forward, with a jump to a
keyframe wherever that skips frames, and matched by presentation timestamp.
"""

import os
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from dynfocus.frame_conversion import FrameConverter
from dynfocus.frame_sampling import sample_indices
from dynfocus.video_timeline import (
    Timeline,
    VideoError,
    check_file,
    decoded,
    open_video,
    scan_by_decoding,
    scan_packets,
)

__all__ = ["VideoClip", "VideoError", "read_video"]

# Their frames are drawn over the ones before, all the way from the first, even where they are marked as keyframes.
_CODECS_WITHOUT_KEYFRAMES = {"gif", "apng", "webp"}

# Decoders that hide an error well enough for the frames drawn from it to be looked at.
_CODECS_THAT_CONCEAL = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"}


@dataclass(frozen=True)
class VideoClip:
    """Frames sampled from one video.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB, upright (the file's rotation is applied).
        timestamps: float64 [T], seconds from the video's first frame, increasing.
        frame_indices: int64 [T], place of each frame in the file, in presentation order.
        duration: seconds from the first frame to the end of the last.
        total_frames: frames the file holds, or held before it was cut.
        fps: average frames per second of the file, 0 for a single frame: what a player or an editor needs to show the
            clip's place in it.
        frames_lost: frames that could not be decoded where they were needed, or are cut off the file's end. A wanted
            one is replaced by its nearest neighbour, under that one's own timestamp, or dropped where that is taken.
        frames_damaged: how many of the T frames are drawn from a lost one and may be smeared; used only where no sound
            frame is nearer than half the sampling step.
        path: the file.
    """

    frames: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    frame_indices: NDArray[np.int64]
    duration: float
    total_frames: int
    fps: float
    frames_lost: int = 0
    frames_damaged: int = 0
    path: str = ""


class _UnknownTimestampError(Exception):
    """A decoded frame carries a timestamp that no packet had: the packets' timestamps cannot be trusted."""


class _CannotJumpError(Exception):
    """The container cannot be positioned at a keyframe that it holds."""


def read_video(
    path: str | os.PathLike,
    *,
    fps: float | None = 1.0,
    num_frames: int | None = None,
    min_frames: int = 1,
    max_frames: int | None = None,
    size: int | None = None,
) -> VideoClip:
    """Decode a sample of the frames of a video, an animation or a still image (a video of one frame).

    Args:
        path: any file PyAV reads.
        fps: frames per second to sample, each the frame on screen at that time; None takes every frame.
        num_frames: take this many frames (all, if there are fewer), evenly over the file's frames; overrides `fps`.
        min_frames, max_frames: with `fps`, take this many evenly where the rate gives fewer or more.
        size: scale frames down while decoding until the shorter side is this many pixels; never up.

    Returns:
        The clip. Memory is that of its frames, and about 70 bytes per frame of the file beside FFmpeg's own index.

    Raises:
        VideoError: the file is missing, unreadable, no video, or not one of its frames can be decoded.
        ValueError: an argument is out of range.
    """
    counts = {"num_frames": num_frames, "min_frames": min_frames, "max_frames": max_frames, "size": size}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, must be at least 1")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps is {fps}, must be positive and finite")
    if max_frames is not None and max_frames < min_frames:
        raise ValueError(f"max_frames is {max_frames}, must be at least min_frames ({min_frames})")

    file = os.fspath(path)
    check_file(file)

    def read(timeline: Timeline) -> VideoClip:
        targets = sample_indices(
            timeline.times,
            timeline.duration,
            fps=fps,
            num_frames=num_frames,
            min_frames=min_frames,
            max_frames=max_frames,
            clock_tick=timeline.tick,
        )
        return _read(file, timeline, targets, size)

    try:
        timeline = scan_packets(file)
        try:
            return read(timeline or scan_by_decoding(file))
        except _UnknownTimestampError:
            return read(scan_by_decoding(file))
    except (OSError, av.error.FFmpegError) as error:
        raise VideoError(f"{file}: cannot be read ({error.strerror})") from error


def _read(file: str, timeline: Timeline, targets: NDArray[np.int64], size: int | None) -> VideoClip:
    """Decode the targets, or what is nearest to them in a broken file, until every chosen frame is known to decode."""
    total = len(timeline)
    can_jump = timeline.codec not in _CODECS_WITHOUT_KEYFRAMES
    lost = np.zeros(total, dtype=bool)
    damaged = np.zeros(total, dtype=bool)
    pictures: dict[int, NDArray[np.uint8]] = {}
    convert = FrameConverter(size)
    chosen = targets
    while missing := [index for index in chosen.tolist() if index not in pictures]:
        try:
            _decode(file, timeline, missing, convert, pictures, lost, can_jump)
        except _CannotJumpError:
            can_jump = False
            continue
        assert all(index in pictures or lost[index] for index in missing)  # or this would never end
        damaged = _drawn_from_lost(timeline, lost) & ~lost
        if timeline.codec not in _CODECS_THAT_CONCEAL:
            lost |= damaged
            damaged[:] = False
        if lost.all():
            if _is_animated_webp(file):
                raise VideoError(f"{file}: is an animated WebP, which is not supported")
            raise VideoError(f"{file}: not one of its frames can be decoded")
        chosen = _nearest_usable(timeline, targets, lost, damaged)
    frames = np.empty((len(chosen), *pictures[int(chosen[0])].shape), dtype=np.uint8)
    for row, index in enumerate(chosen.tolist()):
        frames[row] = pictures.pop(index)
    return VideoClip(
        frames=frames,
        timestamps=timeline.times[chosen],
        frame_indices=chosen,
        duration=timeline.duration,
        total_frames=total + timeline.num_cut_off,
        fps=(total - 1) / float(timeline.times[-1]) if total > 1 else 0.0,
        frames_lost=int(lost.sum()) + timeline.num_cut_off,
        frames_damaged=int(damaged[chosen].sum()),
        path=file,
    )


def _decode(
    file: str,
    timeline: Timeline,
    wanted: list[int],
    convert: FrameConverter,
    pictures: dict[int, NDArray[np.uint8]],
    lost: NDArray[np.bool_],
    can_jump: bool,
) -> None:
    """Put the wanted frames that decode into `pictures`; mark in `lost` all that did not decode where they should."""
    keys = np.flatnonzero(timeline.is_key)
    # Frame i is settled once every frame decoded before it is shown: it may be drawn from them, even from later ones.
    shown = np.empty(len(timeline), dtype=np.int64)
    shown[timeline.rank] = np.arange(len(timeline))
    settled = np.maximum.accumulate(shown)[timeline.rank]
    still_wanted = set(wanted)
    container, stream = open_video(file)
    with container:
        batches = decoded(container, stream)
        position = -1  # Index of the last frame decoded.
        for target in wanted:
            keys_before = keys[: np.searchsorted(keys, target, side="right")]
            if can_jump and timeline.pts is not None and len(keys_before) and keys_before[-1] > position + 1:
                _jump(container, stream, timeline.pts, keys_before)
                batches = decoded(container, stream)
                position = int(keys_before[-1]) - 1
            while position < settled[target]:
                try:
                    frames = next(batches)
                except StopIteration:
                    lost[position + 1 :] = True
                    return
                # A frame with a timestamp is missed where it should have been shown; one without takes a place here.
                shown_now = frames if frames is not None else [None] if timeline.pts is None else []
                for frame in shown_now:
                    index = position + 1 if timeline.pts is None else _index_of(frame, timeline.pts)
                    if index <= position:
                        continue  # Belongs before the keyframe jumped to.
                    lost[position + 1 : index] = True
                    if frame is None or frame.is_corrupt:
                        lost[index] = True
                    elif index in still_wanted:
                        pictures[index] = convert(frame)
                    position = index


def _index_of(frame: av.VideoFrame | None, pts: NDArray[np.int64]) -> int:
    if frame is not None and frame.pts is not None:
        index = int(np.searchsorted(pts, frame.pts))
        if index < len(pts) and pts[index] == frame.pts:
            return index
    raise _UnknownTimestampError


def _jump(
    container: av.container.InputContainer, stream: av.VideoStream, pts: NDArray[np.int64], keys: NDArray[np.int64]
) -> None:
    """Go to the last of these keyframes, or to one before it where the container lands too late."""
    for key in pts[keys[:-4:-1]].tolist():
        try:
            container.seek(key, stream=stream, backward=True)
            landed = next((packet.pts for packet in container.demux(stream) if packet.pts is not None), None)
            container.seek(key, stream=stream, backward=True)
        except av.error.FFmpegError:
            break
        if landed is not None and landed <= pts[keys[-1]]:
            return
    raise _CannotJumpError


def _drawn_from_lost(timeline: Timeline, lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the frames from a lost one on, in decoding order, up to the next keyframe: they may be drawn from it."""
    total = len(timeline)
    keys = np.flatnonzero(timeline.is_key)
    group = np.searchsorted(timeline.rank[keys], timeline.rank, side="right")  # 0 is before the first keyframe.
    first_lost = np.full(len(keys) + 1, total)  # Per group, in decoding order.
    np.minimum.at(first_lost, group[lost], timeline.rank[lost])
    # Frames decoded after a keyframe but shown before it are drawn from the group before, too.
    leads = np.arange(total) < np.append(-1, keys)[group]
    return (timeline.rank >= first_lost[group]) | (leads & (first_lost[group - 1] < total))


def _nearest_usable(
    timeline: Timeline, targets: NDArray[np.int64], lost: NDArray[np.bool_], damaged: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each target the nearest sound frame within half a sampling step, else the nearest that decodes; each once."""
    times = timeline.times
    reach = float(np.median(np.diff(times[targets]))) / 2 if len(targets) > 1 else timeline.duration

    def nearest(pool: NDArray[np.int64]) -> NDArray[np.int64]:
        after = np.searchsorted(pool, targets).clip(max=len(pool) - 1)
        before = (after - 1).clip(min=0)
        before_is_nearer = np.abs(times[pool[before]] - times[targets]) <= np.abs(times[pool[after]] - times[targets])
        return np.where(before_is_nearer, pool[before], pool[after])

    choice = nearest(np.flatnonzero(~lost))
    sound = np.flatnonzero(~lost & ~damaged)
    if len(sound):
        nearest_sound = nearest(sound)
        choice = np.where(np.abs(times[nearest_sound] - times[targets]) <= reach, nearest_sound, choice)
    return np.unique(choice)


def _is_animated_webp(file: str) -> bool:
    """By the animation bit of the extended header (RFC 9649, section 2.7)."""
    with open(file, "rb") as opened:
        header = opened.read(21)
    return header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X" and bool(header[20:] and header[20] & 0x02)
