"""Colour profiles go into the output where its format takes them; what is not written is named."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from sr_nas.images.decode import Metadata, decode_with_metadata, fits
from sr_nas.images.encode import encode, holds_profile
from sr_nas.images.files import read_with_metadata, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK = SRGB[:16] + b"CMYK" + SRGB[20:]


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype"),
    [
        *((suffix, channels, dtype) for suffix in (".png", ".tif") for channels in (1, 3, 4) for dtype in (np.uint8, np.uint16)),
        *((suffix, 2, np.uint8) for suffix in (".png", ".tif")),
        (".jpg", 1, np.uint8),
        (".jpg", 3, np.uint8),
        (".webp", 3, np.uint8),
        (".webp", 4, np.uint8),
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
    assert metadata.icc_profile == CMYK and not fits(CMYK, 3) and not fits(CMYK, 4)


def exif(*tags: int) -> Image.Exif:
    found = Image.Exif()
    for tag in tags:
        found[tag] = 6 if tag == 274 else "a camera"
    return found


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_is_named_unless_it_is_the_orientation_alone(form: str) -> None:
    image = Image.fromarray(noise(6, 4, 3))
    assert decode_with_metadata(encoded(image, form, exif=exif(274)))[1].others == ()
    pixels, metadata = decode_with_metadata(encoded(image, form, exif=exif(274, 271)))
    assert metadata.others == ("EXIF",) and pixels.shape == (4, 6, 3)


def with_chunk(kind: bytes, content: bytes) -> bytes:
    plain = encoded(Image.fromarray(noise(6, 4, 3)), "PNG")
    return (
        plain[:33] + struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)) + plain[33:]
    )


@pytest.mark.parametrize(
    ("kind", "content", "others"),
    [
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), ()),  # sRGB
        (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000), ("chromaticities",)),  # Display P3
        (b"cICP", bytes([1, 13, 0, 1]), ()),  # sRGB
        (b"cICP", bytes([9, 16, 0, 1]), ("code points of a colour space",)),  # BT.2100, PQ
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1), ("resolution",)),  # 300 dpi
        (b"pHYs", struct.pack(">IIB", 2835, 2835, 1), ()),  # 72 dpi
    ],
)
def test_what_else_says_what_the_numbers_mean_is_named(kind: bytes, content: bytes, others: tuple[str, ...]) -> None:
    assert decode_with_metadata(with_chunk(kind, content))[1].others == others


def test_xmp_text_and_gamma_are_named() -> None:
    image = Image.fromarray(noise(6, 4, 3))
    assert decode_with_metadata(encoded(image, "JPEG", xmp=b"<x/>"))[1].others == ("XMP",)
    assert decode_with_metadata(encoded(image, "JPEG", comment=b"hello"))[1].others == ("text",)
    text = PngInfo()
    text.add_text("Author", "me")
    assert decode_with_metadata(encoded(image, "PNG", pnginfo=text))[1].others == ("text",)
    assert decode_with_metadata(encoded(image, "PNG"))[1] == Metadata()
    assert decode_with_metadata(encoded(image, "TIFF"))[1] == Metadata()
    for gamma, others in ((100000, ("gamma",)), (45455, ())):
        content = b"gAMA" + struct.pack(">I", gamma)
        plain = encoded(image, "PNG")
        chunk = struct.pack(">I", 4) + content + struct.pack(">I", zlib.crc32(content))
        assert decode_with_metadata(plain[:33] + chunk + plain[33:])[1].others == others
