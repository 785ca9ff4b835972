"""Encoding: every pixel comes back; formats refuse what they cannot hold; colour profiles."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sr_nas.errors import UserError
from sr_nas.images.encode import encode, holds_profile
from sr_nas.images.files import Metadata, decode, decode_with_metadata, read_image, read_with_metadata, write_image
from tests.images.encoded import encoded, noise

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK = SRGB[:16] + b"CMYK" + SRGB[20:]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_and_tiff_keep_every_pixel(tmp_path: Path, suffix: str, channels: int, dtype: type) -> None:
    pixels = noise(7, 5, channels, dtype=dtype)
    path = tmp_path / f"bild_ü_图{suffix}"
    write_image(path, pixels)
    read = read_image(path)
    assert read.dtype == dtype and read.flags.c_contiguous and read.flags.writeable
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(("suffix", "channels"), [(".bmp", 1), (".bmp", 3), (".webp", 3), (".webp", 4), (".png", 2), (".tif", 2)])
def test_other_lossless_formats_keep_every_pixel(suffix: str, channels: int) -> None:
    pixels = noise(7, 5, channels)
    pixels[:3, :, -1] = 0  # colour below full transparency is kept too
    np.testing.assert_array_equal(decode(encode(pixels, suffix)), pixels)


def test_other_readers_see_the_same_colours(tmp_path: Path) -> None:
    for name, pixels in (("a.tif", noise(7, 5, 4)), ("b.tif", noise(7, 5, 4, dtype=np.uint16))):
        write_image(tmp_path / name, pixels)
        assert TiffImageFile(tmp_path / name).tag_v2[338] == (2,), "the fourth channel is declared as alpha"
    for name in ("c.png", "c.tif"):
        pixels = noise(7, 5, 3, dtype=np.uint16)
        write_image(tmp_path / name, pixels)
        opencv = np.asarray(cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED))
        np.testing.assert_array_equal(opencv[..., ::-1], pixels)


def test_what_a_format_lacks_is_widened() -> None:
    grey = noise(7, 5, 1)
    np.testing.assert_array_equal(decode(encode(grey, ".webp")), np.repeat(grey, 3, axis=2))
    deep = noise(7, 5, 2, dtype=np.uint16)
    for suffix in (".png", ".tif"):
        np.testing.assert_array_equal(decode(encode(deep, suffix)), deep[..., [0, 0, 0, 1]])
    np.testing.assert_array_equal(decode(encode(grey[..., 0], ".png")), grey)


def test_jpeg_obeys_its_quality_and_keeps_chroma(tmp_path: Path) -> None:
    ramp = np.linspace(60, 190, 64)
    stripes = np.stack(np.broadcast_arrays(ramp[:, None], 110 + 15 * (-1.0) ** np.arange(64), ramp[None, :]), axis=2)
    pixels = stripes.round().astype(np.uint8)
    errors = {quality: np.abs(decode(encode(pixels, ".jpg", quality)).astype(float) - pixels).mean() for quality in (30, 95)}
    assert errors[95] < 1.5 < errors[30]
    write_image(tmp_path / "95.jpg", pixels)
    assert JpegImageFile(tmp_path / "95.jpg").layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)], "4:4:4"
    assert decode(encode(pixels[..., :1], ".jpeg")).shape == (64, 64, 1)


@pytest.mark.parametrize(
    ("name", "pixels", "why"),
    [
        ("a.jpg", noise(4, 4, 4), r"JPEG cannot hold 4 channels \(alpha\)"),
        ("a.jpg", noise(4, 4, 3, dtype=np.uint16), "JPEG cannot hold 16 bits"),
        ("a.webp", noise(4, 4, 3, dtype=np.uint16), "WebP cannot hold 16 bits"),
        ("a.bmp", noise(4, 4, 2), "BMP cannot hold 2 channels"),
        ("a.png", noise(4, 4, 5), "PNG cannot hold 5 channels"),
        ("a.webp", noise(1, 20000, 3), "WebP cannot hold 20000x1 pixels"),
        ("a.jpg", noise(1, 70000, 3), "JPEG cannot hold 70000x1 pixels"),
        ("a.gif", noise(4, 4, 3), "not as '.gif'"),
    ],
)
def test_what_a_format_cannot_hold_is_an_error(tmp_path: Path, name: str, pixels: np.ndarray, why: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*{why}"):
        write_image(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())


def test_arrays_that_are_no_images_are_refused() -> None:
    for array in (np.zeros((4, 4, 3)), np.zeros((4,), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="no image"):
            encode(array, ".png")


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        *((suffix, channels, dtype) for suffix in (".png", ".tif") for channels in (1, 3, 4) for dtype in (np.uint8, np.uint16)),
        *((suffix, 2, np.uint8) for suffix in (".png", ".tif")),
        *((".jpg", channels, np.uint8) for channels in (1, 3)),
        *((".webp", channels, np.uint8) for channels in (3, 4)),
    ],
)
def test_a_profile_is_written_beside_the_same_pixels(tmp_path: Path, suffix: str, channels: int, dtype: type) -> None:
    pixels, profile = noise(7, 5, channels, dtype=dtype), GREY if channels < 3 else SRGB
    path = tmp_path / f"a{suffix}"
    assert holds_profile(suffix, channels, 8 * pixels.dtype.itemsize, profile)
    write_image(path, pixels, icc_profile=profile)
    read, metadata = read_with_metadata(path)
    assert metadata == Metadata(profile)
    with Image.open(path) as image:
        assert image.info["icc_profile"] == profile
    write_image(path, pixels)
    without, metadata = read_with_metadata(path)
    np.testing.assert_array_equal(read, without)
    assert metadata == Metadata()


@pytest.mark.parametrize(
    ("suffix", "channels", "bits", "profile", "held"),
    [
        (".bmp", 3, 8, SRGB, False),
        (".png", 3, 8, GREY, False),
        (".png", 1, 8, SRGB, False),
        (".png", 3, 8, CMYK, False),
        (".PNG", 3, 8, SRGB, True),
        (".png", 3, 8, SRGB[:-1], False),
        (".png", 3, 8, b"", False),
        (".webp", 1, 8, GREY, False),  # WebP holds grey as RGB
        (".webp", 1, 8, SRGB, True),
        (".png", 2, 16, GREY, False),  # written as RGBA
    ],
)
def test_a_profile_of_other_pixels_or_without_its_end_is_not_held(
    suffix: str, channels: int, bits: int, profile: bytes, held: bool
) -> None:
    assert holds_profile(suffix, channels, bits, profile) is held
    if not held and suffix != ".bmp":
        with pytest.raises(ValueError, match="profile does not fit"):
            encode(noise(4, 4, channels, dtype=np.uint16 if bits == 16 else np.uint8), suffix, 95, profile)


def test_the_profile_of_a_cmyk_photo_does_not_fit_its_rgb() -> None:
    _, metadata = decode_with_metadata(encoded(Image.new("CMYK", (8, 8)), "JPEG", icc_profile=CMYK))
    assert metadata.icc_profile == CMYK and not holds_profile(".jpg", 3, 8, CMYK)
