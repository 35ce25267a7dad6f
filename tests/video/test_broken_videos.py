"""Broken files: what can be seen is shown, under its own time, and what is lost is said; the rest is one clear line."""

import os
import re

import av
import numpy as np
import pytest

from dynfocus.errors import DynFocusError
from dynfocus.video_reading import VideoError, read_video
from tests.video.watermark import break_packet, numbers_of, packets_of, watermarked, write_silence, write_video

# No B-frames: packet n holds frame n. Keyframes at 0, 10, 20, 30.
CODECS = {
    "h264.mp4": dict(codec="libx264", options={"g": "10", "bf": "0"}),
    "h264.mkv": dict(codec="libx264", options={"g": "10", "bf": "0"}),
    "hevc.mp4": dict(codec="libx265", options={"x265-params": "log-level=none:bframes=0:keyint=10"}),
    "vp8.webm": dict(codec="libvpx", options={"g": "10", "deadline": "realtime", "lag-in-frames": "0"}),
    "vp9.webm": dict(codec="libvpx-vp9", options={"g": "10", "deadline": "realtime", "lag-in-frames": "0"}),
    "lossless.mkv": dict(codec="ffv1", options={"g": "10"}),
    "mpeg4.avi": dict(codec="mpeg4", options={"g": "10"}),
}
# How many bytes of a packet are left whole: MPEG-4 keeps the stream's headers in its first packet, and an HEVC decoder
# cannot tell a slice's data from any other bytes, only its header.
SPARED = dict.fromkeys(CODECS, 12) | {"mpeg4.avi": 60, "hevc.mp4": 4}


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("broken", [0, 13, 20, 39])
def test_one_broken_frame(tmp_path, name, broken):
    path = break_packet(write_video(tmp_path / name, 40, **CODECS[name]), broken, spare=SPARED[name])
    clip = read_video(path, fps=None)
    seen = clip.frame_indices.tolist()
    next_key = 10 * (broken // 10 + 1)
    assert broken not in seen
    assert set(seen) >= set(range(40)) - set(range(broken, next_key))
    assert 1 <= clip.frames_lost == 40 - len(seen)
    assert clip.frames_damaged == len([index for index in seen if broken < index < next_key])
    assert clip.total_frames == 40
    np.testing.assert_allclose(clip.timestamps, clip.frame_indices / 30, atol=0.001)
    # Whatever is not drawn from the broken frame is the right picture.
    sound = [row for row, index in enumerate(seen) if not broken <= index < next_key]
    assert numbers_of(clip.frames[sound]) == clip.frame_indices[sound].tolist()


@pytest.mark.parametrize("name", CODECS)
def test_a_lost_target_is_replaced_by_the_nearest_sound_frame(tmp_path, name):
    path = break_packet(write_video(tmp_path / name, 40, **CODECS[name]), 15, spare=SPARED[name])
    clip = read_video(path, num_frames=4)  # wants 5, 15, 25, 35
    assert numbers_of(clip.frames) == clip.frame_indices.tolist() == [5, 14, 25, 35]
    np.testing.assert_allclose(clip.timestamps, clip.frame_indices / 30, atol=0.001)
    assert clip.frames_lost >= 1
    assert clip.frames_damaged == 0


def test_frames_that_reorder_across_the_break(tmp_path):
    """With B-frames the pictures before a broken P-frame are drawn from it too: they must not pass for sound."""
    options = {"g": "40", "bf": "3", "x264-params": "b-adapt=0:b-pyramid=none"}
    path = write_video(tmp_path / "b.mp4", 40, options=options)
    with av.open(str(path)) as container:
        order = [round(packet.pts / 512) for packet in container.demux(video=0) if packet.size]
    number = next(n for n, index in enumerate(order) if index > 15 and index == max(order[: n + 1]))
    break_packet(path, number)
    sound = set(order[:number])
    clip = read_video(path, fps=None)
    assert clip.frames_lost >= 1
    assert clip.frames_damaged == len([index for index in clip.frame_indices.tolist() if index not in sound])
    right = [row for row, index in enumerate(clip.frame_indices.tolist()) if index in sound]
    assert numbers_of(clip.frames[right]) == clip.frame_indices[right].tolist() == sorted(sound)


def test_a_target_drawn_from_a_broken_later_frame(tmp_path):
    """Frame 19 is decoded after the broken frame 20 and shown before it: reading must not stop once it is shown."""
    options = {"g": "40", "bf": "3", "x264-params": "b-adapt=0:b-pyramid=none"}
    path = write_video(tmp_path / "b.mp4", 38, options=options)
    with av.open(str(path)) as container:
        order = [round(packet.pts / 512) for packet in container.demux(video=0) if packet.size]
    assert order.index(20) < order.index(19)
    clip = read_video(break_packet(path, order.index(20)), num_frames=1)  # wants 19
    assert numbers_of(clip.frames) == clip.frame_indices.tolist() == [16]
    assert (clip.frames_lost, clip.frames_damaged) == (1, 0)


def test_many_broken_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", 200, **CODECS["h264.mp4"])
    for number in range(3, 200, 20):
        break_packet(path, number)
    clip = read_video(path, num_frames=50)
    assert clip.frames_lost == 10
    indices = clip.frame_indices.tolist()
    assert not set(indices) & set(range(3, 200, 20))
    sound = [row for row, index in enumerate(indices) if index // 10 % 2 or index % 10 < 3]
    assert numbers_of(clip.frames[sound]) == clip.frame_indices[sound].tolist()
    assert len(sound) + clip.frames_damaged == len(indices)


def test_a_bare_stream_with_a_broken_packet(tmp_path):
    path = write_video(tmp_path / "bare.h264", 40, options={"g": "10", "bf": "0"})
    content = bytearray(path.read_bytes())
    starts = [match.start() for match in re.finditer(b"\0\0\1[\x41\x61]", bytes(content))]
    content[starts[12] + 3 : starts[13]] = bytes(starts[13] - starts[12] - 3)
    path.write_bytes(content)
    clip = read_video(path, fps=None)
    assert clip.frames_lost >= 1 or clip.total_frames == 39
    assert len(clip.frames) >= 30


@pytest.mark.parametrize("suffix, least_seen", [(".mkv", 40), (".webm", 40), (".mp4", 40), (".ts", 40)])
def test_truncated_but_usable(tmp_path, suffix, least_seen):
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write_video(tmp_path / f"cut{suffix}", 100, codec=codec, options={"g": "10"}, container_options=options)
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    clip = read_video(path, fps=None)
    seen = len(clip.frames)
    assert least_seen <= seen < 100
    assert numbers_of(clip.frames[:least_seen]) == list(range(least_seen))
    if suffix != ".ts":  # A transport stream says nowhere how long it should have been.
        assert clip.total_frames == pytest.approx(100, abs=1)
        assert clip.frames_lost == pytest.approx(100 - seen, abs=1)


def test_sound_that_outlasts_the_picture_is_no_loss(tmp_path):
    path = write_video(tmp_path / "a.mkv", 30, with_audio=4.0)
    with av.open(str(path)) as container:
        assert container.duration > 3.9e6
    assert read_video(path, fps=None).frames_lost == 0


def _audio_only(path):
    with av.open(str(path), "w") as container:
        write_silence(container, container.add_stream("aac", rate=48000), 1.0)


def _audio_with_cover(path):
    with av.open(str(path), "w", format="mp3") as container:
        sound = container.add_stream("libmp3lame", rate=48000)
        cover = container.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 96, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(watermarked(0), format="rgb24")))
        write_silence(container, sound, 1.0)


def _without_index(path):
    content = write_video(path, 30).read_bytes()
    path.write_bytes(content[: int(0.6 * len(content))])


def _unknown_codec(path):
    content = write_video(path, 3).read_bytes()
    path.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))


def _every_frame_broken(path):
    write_video(path, 12, options={"bf": "0"})
    for number in range(12):
        break_packet(path, number, spare=4)


BAD_FILES = {
    "missing.mp4": (lambda path: None, "no such file"),
    "directory.mp4": (lambda path: path.mkdir(), "is a directory"),
    "empty.mp4": (lambda path: path.touch(), "is empty"),
    "text.mp4": (lambda path: path.write_text("Not a video at all.\n" * 99), "not a video"),
    "text.txt": (lambda path: path.write_text("Not a video at all.\n" * 99), "is text, not a video"),
    "zeros.mp4": (lambda path: path.write_bytes(bytes(9999)), "not a video"),
    "noise.webm": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9999)), "not a video"),
    "audio.m4a": (_audio_only, "holds no video, only audio"),
    "audio_only.mp4": (_audio_only, "holds no video, only audio"),
    "cover.mp3": (_audio_with_cover, "holds no video, only audio"),
    "no_index.mp4": (_without_index, "damaged beyond reading"),
    "unknown_codec.mkv": (_unknown_codec, "a video codec that is not known here"),
    "all_broken.mp4": (_every_frame_broken, "not one of its frames can be decoded"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "is not a regular file"),
    "nul\0.mp4": (lambda path: None, "cannot be read"),
    "a" * 300 + ".mp4": (lambda path: None, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_line(tmp_path, name):
    make, complaint = BAD_FILES[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(VideoError) as caught:
        read_video(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert complaint in message
    assert "\n" not in message
    assert isinstance(caught.value, DynFocusError)


def test_forbidden_file(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    path = write_video(tmp_path / "a.mp4", 1)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(VideoError, match="no permission to read it"):
        read_video(path)


def test_a_file_name_is_never_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / "concat:x.mp4")
    assert numbers_of(read_video("concat:x.mp4", fps=None).frames) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_never_escapes(tmp_path, seed):
    """Whatever bytes are hit, the file is answered with honest times or refused as a VideoError."""
    rng = np.random.default_rng(seed)
    name = list(CODECS)[seed % len(CODECS)]
    path = write_video(tmp_path / name, 40, **CODECS[name])
    content = bytearray(path.read_bytes())
    for start in rng.integers(0, len(content), 5):
        piece = content[start : start + int(rng.integers(1, 200))]
        content[start : start + len(piece)] = rng.bytes(len(piece))
    path.write_bytes(content)
    try:
        clip = read_video(path, num_frames=8, size=48)
    except VideoError as error:
        assert "\n" not in str(error)
    else:
        assert 1 <= len(clip.frames) == len(clip.timestamps) == len(clip.frame_indices) <= 8
        assert (np.diff(clip.timestamps) > 0).all()
        assert 0 <= clip.frames_lost <= clip.total_frames


def test_packets_are_where_the_tests_think(tmp_path):
    assert len(packets_of(write_video(tmp_path / "a.mp4", 7))) == 7
