"""Decoding: every kind of pixel, upright; damaged files are errors; metadata."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from sr_nas.errors import UserError
from sr_nas.images.files import Metadata, decode, decode_with_metadata
from tests.images.encoded import chunk, encoded, noise, png

SMOOTH = cv2.GaussianBlur(noise(80, 60, 3), (0, 0), 2)


def exif(*tags: int, orientation: int = 6) -> Image.Exif:
    table = Image.Exif()
    for tag in tags:
        table[tag] = orientation if tag == 274 else "a camera"
    return table


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int, form: str) -> None:
    pixels = noise(6, 4, 3)
    settings = {"lossless": True} if form == "WEBP" else {}
    stored = Image.fromarray(pixels)
    upright = decode(encoded(stored, form, exif=exif(274, orientation=orientation), **settings))
    stored.getexif()[274] = orientation
    np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(stored)))
    if orientation == 6:  # a camera held upright: the first stored row is the right edge
        np.testing.assert_array_equal(upright[:, -1], pixels[0])


def test_the_exif_orientation_of_a_jpeg_is_applied() -> None:
    assert decode(encoded(Image.fromarray(noise(6, 4, 3)), "JPEG", exif=exif(274, orientation=8))).shape == (4, 6, 3)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sixteen_bit_files_are_turned_once(orientation: int) -> None:
    pixels = noise(6, 4, dtype=np.uint16)
    upright = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1)}[orientation][..., None]
    tiff = encoded(Image.fromarray(pixels), "TIFF", tiffinfo={274: orientation})
    np.testing.assert_array_equal(decode(tiff), upright)
    tag = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    np.testing.assert_array_equal(decode(png(pixels, 0, 16, chunk(b"eXIf", tag))), upright)


def test_grey_with_alpha_is_told_from_rgba() -> None:
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        pixels = noise(6, 4, 2, dtype=dtype)
        np.testing.assert_array_equal(decode(png(pixels, 4, bits)), pixels)


def test_palettes_are_expanded() -> None:
    colours, indices = noise(3, 3), noise(6, 4) % 3
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    for form in ("PNG", "BMP"):
        np.testing.assert_array_equal(decode(encoded(image, form)), colours[indices])
    alpha = np.where(indices == 1, 0, 255)[..., None]
    np.testing.assert_array_equal(decode(encoded(image, "PNG", transparency=1)), np.dstack([colours[indices], alpha]))


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2)])
def test_colour_keys_become_alpha(channels: int, colour_type: int, bits: int, dtype: type) -> None:
    pixels = noise(6, 4, channels, dtype=dtype)
    pixels[2, 1] = (1, 2, 3)[:channels]
    rgba = decode(png(pixels, colour_type, bits, chunk(b"tRNS", struct.pack(f">{channels}H", *pixels[2, 1]))))
    np.testing.assert_array_equal(rgba[..., :-1], pixels)
    assert rgba[2, 1, -1] == 0 and (rgba[..., -1] == np.iinfo(dtype).max).sum() == 23


def test_one_bit_is_spread_over_the_range() -> None:
    bits = noise(6, 8) > 127
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits), "PNG"))[..., 0], bits * 255)


def test_cmyk_becomes_rgb() -> None:
    pixels = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[4, 4].astype(int), [255, 0, 0], atol=4)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"hello", "of a kind that is not read"),
        (encoded(Image.new("P", (4, 4)), "GIF"), "of a kind that is not read"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating point"),
        (encoded(Image.new("I", (4, 4)), "TIFF"), "32-bit integers"),
        (encoded(Image.new("L", (4, 4)), "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))]), "holds 2 images"),
        (encoded(Image.new("L", (4, 4)), "PNG", save_all=True, append_images=[Image.new("L", (4, 4), 9)]), "holds 2 images"),
    ],
)
def test_files_of_other_kinds_are_errors_that_say_why(data: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        decode(data)


def test_the_jpeg_of_a_camera_with_a_preview_is_read() -> None:
    two = encoded(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    np.testing.assert_array_equal(decode(two), decode(encoded(Image.fromarray(SMOOTH), "JPEG")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_images_over_the_limit_of_pillow_are_read(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(SMOOTH), form)), SMOOTH)
    assert Image.MAX_IMAGE_PIXELS == 3


def test_an_error_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, *_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UserError, match=r"too large \(MemoryError\)"):
        decode(encoded(Image.fromarray(noise(6, 4, 3)), "BMP"))


# Damage


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("form", "settings"),
    [
        *(("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("BMP", {}), ("TIFF", {})),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_file_that_is_cut_off_is_an_error(form: str, settings: dict[str, object], share: float) -> None:
    whole = encoded(Image.fromarray(SMOOTH), form, **settings)
    assert decode(whole).shape == SMOOTH.shape
    with pytest.raises(UserError, match=r"cut off|damaged|empty"):
        decode(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_is_complete_and_agrees_with_its_checksums(bits: int) -> None:
    pixels = noise(40, 30, 3, dtype=np.uint16 if bits == 16 else np.uint8)
    whole = png(pixels, 2, bits)
    at = whole.index(b"IDAT") + 4
    checksum = len(whole) - 12 - 4
    changed = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in (at + 40, checksum - 6, checksum)]
    for broken in (whole[: len(whole) // 2], whole[:-20], whole[:-12], *changed):
        with pytest.raises(UserError, match=r"damaged|cut off"):
            decode(broken)
    np.testing.assert_array_equal(decode(whole + b"more behind its end"), pixels)


PHOTO = cv2.GaussianBlur(noise(300, 211, 3), (0, 0), 2) // 2 + noise(300, 211, 1) // 2
JPEG_SETTINGS = [
    {},
    {"quality": 100, "subsampling": "4:4:4"},
    {"quality": 10, "optimize": True},
    {"progressive": True},
    {"restart_marker_blocks": 7},
    {"progressive": True, "restart_marker_rows": 2},
]


@pytest.mark.parametrize("settings", JPEG_SETTINGS, ids=str)
def test_sound_jpegs_pass_with_the_pixels_of_pillow(settings: dict[str, object]) -> None:
    white = np.full((90, 70, 3), 255, np.uint8)
    corner = np.pad(PHOTO[:40, :40], ((0, 160), (0, 160), (0, 0)), constant_values=255)
    for pixels in (PHOTO, PHOTO[:37, :3], PHOTO[..., 0], white, white[:16, :16], corner):
        data = encoded(Image.fromarray(pixels), "JPEG", **settings)
        np.testing.assert_array_equal(decode(data).squeeze(), np.asarray(JpegImageFile(io.BytesIO(data))))


@pytest.mark.parametrize("settings", JPEG_SETTINGS, ids=str)
def test_a_jpeg_that_lacks_a_part_of_its_picture_is_an_error(settings: dict[str, object]) -> None:
    """Down to the last byte of its coded pixels, end marker or not; and with bytes that are lost or zeroed in the middle."""
    whole = encoded(Image.fromarray(PHOTO), "JPEG", **settings)
    cuts = [int(share * len(whole)) for share in (0.3, 0.6, 0.9)] + [len(whole) - 2 - lost for lost in (1, 2, 8, 32)]
    middle = len(whole) // 2
    damaged = [whole[:middle] + whole[middle + middle // 2 :], whole[:middle] + bytes(400) + whole[middle + 400 :]]
    for data in [whole[:cut].rstrip(b"\xff") + b"\xff\xd9" for cut in cuts] + damaged:
        JpegImageFile(io.BytesIO(data)).load()  # Pillow alone notices nothing
        with pytest.raises(UserError, match="a part of its picture is missing"):
            decode(data)


def test_stray_bytes_between_the_segments_of_a_jpeg_do_no_harm() -> None:
    whole = encoded(Image.fromarray(PHOTO), "JPEG")
    scan = whole.index(b"\xff\xda")
    np.testing.assert_array_equal(decode(whole[:scan] + b"\0\0\0" + whole[scan:]), decode(whole))


# Metadata


@pytest.mark.filterwarnings("error")
def test_exif_that_cannot_be_read_warns_nobody_and_is_named() -> None:
    damaged = encoded(Image.fromarray(noise(6, 4, 3)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x0f\x01")
    pixels, metadata = decode_with_metadata(damaged)
    assert pixels.shape == (6, 4, 3) and metadata.others == ("EXIF",)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_is_named_unless_it_is_the_orientation_alone(form: str) -> None:
    image = Image.fromarray(noise(6, 4, 3))
    assert decode_with_metadata(encoded(image, form, exif=exif(274)))[1].others == ()
    pixels, metadata = decode_with_metadata(encoded(image, form, exif=exif(274, 271)))
    assert metadata.others == ("EXIF",) and pixels.shape == (4, 6, 3)


def test_other_metadata_are_named() -> None:
    image, pixels, text = Image.fromarray(noise(6, 4, 3)), noise(6, 4, 3), PngInfo()
    text.add_text("Author", "me")
    for data, others in (
        (encoded(image, "JPEG", xmp=b"<x/>"), ("XMP",)),
        (encoded(image, "JPEG", comment=b"hello"), ("text",)),
        (encoded(image, "PNG", pnginfo=text), ("text",)),
        (encoded(image, "PNG"), ()),
        (encoded(image, "TIFF"), ()),
        (encoded(image, "TIFF", tiffinfo={271: "a camera"}), ("EXIF",)),
        (png(pixels, 2, 8, chunk(b"gAMA", struct.pack(">I", 100000))), ("gamma",)),
        (png(pixels, 2, 8, chunk(b"gAMA", struct.pack(">I", 45455))), ()),  # sRGB's
        (png(pixels, 2, 8, chunk(b"cICP", bytes([9, 16, 0, 1]))), ("code points of a colour space",)),  # BT.2100, PQ
    ):
        assert decode_with_metadata(data)[1] == Metadata(None, others)
