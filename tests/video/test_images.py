"""A picture is a video of one frame, shown upright."""

import av
import numpy as np
import pytest
from PIL import Image

from dynfocus.video_reading import VideoError, read_video
from tests.video.watermark import HEIGHT, WIDTH, numbers_of, watermarked


@pytest.mark.parametrize("name, codec, pix_fmt", [("a.png", "png", "rgb24"), ("a.jpg", "mjpeg", "yuvj420p")])
def test_still_image_is_a_video_of_one_frame(tmp_path, name, codec, pix_fmt):
    path = tmp_path / name
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pix_fmt
        frame = av.VideoFrame.from_ndarray(watermarked(5), format="rgb24").reformat(format=pix_fmt)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_video(path, fps=2.0, min_frames=8)
    assert numbers_of(clip.frames) == [5]
    assert (clip.timestamps.tolist(), clip.total_frames, clip.fps) == ([0.0], 1, 0.0)


# What a viewer does to the stored picture for each value of the Exif tag Orientation (CIPA DC-008, 4.6.5.1).
EXIF_ORIENTATIONS = {
    1: lambda picture: picture,
    2: np.fliplr,
    3: lambda picture: np.rot90(picture, 2),
    4: np.flipud,
    5: lambda picture: picture.transpose(1, 0, 2),
    6: lambda picture: np.rot90(picture, -1),
    7: lambda picture: np.rot90(picture, 2).transpose(1, 0, 2),
    8: lambda picture: np.rot90(picture, 1),
}


@pytest.mark.parametrize("suffix", [".jpg", ".tiff", ".png", ".webp"])
@pytest.mark.parametrize("orientation", EXIF_ORIENTATIONS)
def test_exif_orientation(tmp_path, suffix, orientation):
    """Phones store pictures as the sensor lies, and write the way up beside them."""
    picture, exif = Image.fromarray(watermarked(5)), Image.Exif()
    picture.save(tmp_path / f"plain{suffix}")
    exif[0x0112] = orientation
    picture.save(tmp_path / f"turned{suffix}", exif=exif)
    stored = read_video(tmp_path / f"plain{suffix}").frames[0]
    clip = read_video(tmp_path / f"turned{suffix}")
    np.testing.assert_array_equal(clip.frames, EXIF_ORIENTATIONS[orientation](stored)[None])


def test_animated_webp(tmp_path):
    pictures = [Image.fromarray(watermarked(number)) for number in range(5)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=40)
    with pytest.raises(VideoError, match=r"a\.webp: is an animated WebP, which is not supported"):
        read_video(tmp_path / "a.webp")


def test_broken_webp_is_not_called_animated(tmp_path):
    path = tmp_path / "a.webp"
    Image.fromarray(watermarked(0)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes(len(content) - 20))
    with pytest.raises(VideoError, match="not one of its frames can be decoded"):
        read_video(path)
