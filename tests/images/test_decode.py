"""Decoding: every kind of pixel, upright; damaged files are errors; metadata."""

from __future__ import annotations

import io
import itertools
import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from sr_nas.errors import UserError
from sr_nas.images.files import Metadata, decode, decode_with_metadata, image_size
from tests.images.encoded import bmp, chunk, encoded, noise, png

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


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_colour_keys_of_few_bits_become_alpha(bits: int) -> None:
    values = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2**bits
    places = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(2, -1)  # 8 samples a row, packed
    grey = values[..., None].astype(int) * 255 // (2**bits - 1)
    for key in range(2**bits):
        for high in (0, 0x100, 0x1200):  # bits that do not count
            data = png(np.packbits(places, axis=1), 0, bits, chunk(b"tRNS", struct.pack(">H", key + high)), width=8)
            np.testing.assert_array_equal(decode(data), np.dstack([grey, np.where(grey == grey.flat[key], 0, 255)]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_with_transparent_entries_become_rgba(bits: int) -> None:
    colours, alpha = noise(2**bits, 3), np.array([7, 0] + [255] * (2**bits - 2), np.uint8)
    values = (np.arange(16).reshape(2, 8) % 2**bits).astype(np.uint8)
    places = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(2, -1)
    extra = chunk(b"PLTE", colours.tobytes()) + chunk(b"tRNS", alpha[:2].tobytes())
    data = png(np.packbits(places, axis=1), 3, bits, extra, width=8)
    np.testing.assert_array_equal(decode(data), np.column_stack([colours, alpha])[values])


@pytest.mark.parametrize(("dib", "masks"), [(108, (16, 8, 0, 24)), (124, (16, 8, 0, 24)), (124, (0, 8, 16, 24))])
def test_the_alpha_of_a_bmp_is_kept(dib: int, masks: tuple[int, ...]) -> None:
    pixels = noise(2, 3, 4)
    order = [shift // 8 for shift in masks]
    stored = np.empty_like(pixels)
    stored[..., order] = pixels
    np.testing.assert_array_equal(decode(bmp(3, -2, 32, 3, dib, stored.tobytes(), [255 << shift for shift in masks])), pixels)


def test_alpha_of_one_bit_in_a_bmp_is_refused_not_dropped() -> None:
    data = bmp(2, 2, 16, 3, 124, bytes(8), [0x7C00, 0x3E0, 0x1F, 0x8000])
    with pytest.raises(UserError, match="transparency is not read in a BMP"):
        decode(data)
    assert decode(bmp(2, 2, 16, 3, 124, bytes(8), [0x7C00, 0x3E0, 0x1F, 0])).shape == (2, 2, 3)


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
        (encoded(Image.new("L", (4, 4)), "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "12-bit"),
        (b"BM" + struct.pack("<IHHIIHHHH", 90, 0, 0, 26, 12, 65535, 65535, 1, 24) + bytes(64), "cannot hold"),  # OS/2's header
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
    end = two.index(b"\xff\xd9")
    np.testing.assert_array_equal(decode(two[:end] + bytes(64) + two[end:]), decode(two))
    with pytest.raises(UserError, match=r"a part of its picture|left over behind its picture"):
        decode(two[: end - 300] + two[end:])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_images_over_the_limit_of_pillow_are_read(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(SMOOTH), form)), SMOOTH)
    assert Image.MAX_IMAGE_PIXELS == 3


def test_an_error_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sr_nas.images.files._pixels", fail)
    with pytest.raises(UserError, match=r"not read \(MemoryError\)"):
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
        with pytest.raises(UserError, match=r"a part of its picture|left over behind its picture"):
            decode(data)


def test_stray_bytes_between_the_segments_of_a_jpeg_do_no_harm() -> None:
    whole = encoded(Image.fromarray(PHOTO), "JPEG")
    scan = whole.index(b"\xff\xda")
    np.testing.assert_array_equal(decode(whole[:scan] + b"\0\0\0" + whole[scan:]), decode(whole))


@pytest.mark.parametrize("settings", JPEG_SETTINGS, ids=str)
@pytest.mark.parametrize(
    "filling",
    [
        *map(bytes, (1, 8, 31, 64, 5000)),
        *(b"\xff" * 64, b" " * 40, b"\x12\x34" * 30),
        *((bytes(range(16)) * 90)[:size] for size in (31, 32, 64, 70, 1440)),
        *((b"\0\xff\0" * 400)[:size] for size in (30, 31, 64, 1200)),
    ],
    ids=lambda filling: f"{filling[:4].hex()}-{len(filling)}",
)
def test_a_filling_before_the_end_marker_of_a_jpeg_does_no_harm(settings: dict[str, object], filling: bytes) -> None:
    whole = encoded(Image.fromarray(PHOTO), "JPEG", **settings)
    np.testing.assert_array_equal(decode(whole[:-2] + filling + b"\xff\xd9"), decode(whole))


@pytest.mark.parametrize("settings", JPEG_SETTINGS, ids=str)
def test_a_jpeg_whose_end_was_zeroed_is_no_filled_one(settings: dict[str, object]) -> None:
    whole = encoded(Image.fromarray(PHOTO), "JPEG", **settings)
    for lost in (64, 500, len(whole) // 3):
        with pytest.raises(UserError, match=r"a part of its picture|left over behind its picture"):
            decode(whole[: -2 - lost] + bytes(lost) + b"\xff\xd9")


@pytest.mark.parametrize("strange", [random.Random(size).randbytes(size).replace(b"\xff", b"") for size in (24, 64, 500)])
def test_strange_bytes_behind_the_picture_of_a_jpeg_are_called_that(strange: bytes) -> None:
    whole = encoded(Image.fromarray(PHOTO), "JPEG")
    with pytest.raises(UserError, match=r"damaged, or has bytes left over behind its picture .*save it anew"):
        decode(whole[:-2] + strange + b"\xff\xd9")


def test_palettes_that_lack_colours_are_damaged() -> None:
    values, colours = np.arange(6, dtype=np.uint8).reshape(2, 3), bytes(range(18))
    assert decode(png(values, 3, 8, chunk(b"PLTE", colours))).tobytes() == colours
    with pytest.raises(UserError, match="number 5 of a palette of 5 colours"):
        decode(png(values, 3, 8, chunk(b"PLTE", colours[:-3])))
    for extra in (b"", chunk(b"PLTE", b""), chunk(b"tRNS", b"\1")):
        with pytest.raises(UserError, match=r"its palette \(PLTE\) is missing"):
            decode(png(values, 3, 8, extra))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_without_pixels_is_damaged(bits: int) -> None:
    whole = png(noise(4, 4, 1), 0, bits)
    with pytest.raises(UserError, match="damaged"):
        decode(whole[: whole.index(b"IDAT") - 4] + whole[-12:])


@pytest.mark.parametrize(
    "error", [AssertionError, AttributeError, IndexError, KeyError, RecursionError, Image.DecompressionBombError]
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_whatever_a_decoder_raises_is_damage(monkeypatch: pytest.MonkeyPatch, form: str, error: type[Exception]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    data = encoded(Image.fromarray(noise(6, 4, 3)), form)
    for place in ("sr_nas.images.files._pixels", "tifffile.TiffPage.asarray"):
        monkeypatch.setattr(place, fail)
    with pytest.raises(UserError, match=f"damaged, .* not read .{error.__name__}"):
        decode(data)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "bits"), [(0, 1), (0, 8), (0, 16), (2, 8), (3, 8), (6, 8), (6, 16)])
def test_a_png_whose_data_end_before_its_last_line_is_damaged(
    capfd: pytest.CaptureFixture[str], colour_type: int, bits: int, interlaced: bool
) -> None:
    samples = 5 * {0: 1, 2: 3, 3: 1, 6: 4}[colour_type]
    line = np.zeros(samples if bits == 16 else -(-bits * samples // 8), np.uint8)
    palette = chunk(b"PLTE", bytes(6)) if colour_type == 3 else b""
    for lines in (0, 3, 11) if interlaced else (0, 2, 3):
        data = png(np.tile(line, (lines, 1)), colour_type, bits, palette, 5, 3)
        header = data[12:28] + bytes([interlaced])
        data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        if lines == (11 if interlaced else 3):
            assert decode(data).shape[:2] == (3, 5)
        else:
            with pytest.raises(UserError, match=r"its last lines are missing|cut off"):
                decode(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_exif_that_cannot_be_parsed_leaves_the_picture(tmp_path: Path, form: str) -> None:
    image = Image.fromarray(noise(6, 4, 3))
    settings = {"lossless": True} if form == "WEBP" else {}
    expected = decode(encoded(image, form, **settings))
    for exif in (b"Exif\0\0garbage", b"Exif\0\0" + bytes(40), b"Exif\0\0II+\0\x08\0\0\0"):
        data = encoded(image, form, exif=exif, **settings)
        pixels, metadata = decode_with_metadata(data)
        np.testing.assert_array_equal(pixels, expected)
        assert metadata.others == ("EXIF",)
        (tmp_path / "x").write_bytes(data)
        assert image_size(tmp_path / "x") == (6, 4)


HUGE = [(2**31, 2**31), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (2**31 - 1, 1), (2**16, 2**24)]


@pytest.mark.parametrize(("width", "height"), HUGE)
def test_a_png_that_states_more_than_can_be_is_refused_at_once(width: int, height: int) -> None:
    for colour_type, bits in ((0, 1), (0, 8), (0, 16), (2, 8), (6, 16), (3, 8)):
        data = png(noise(4, 4, 3), colour_type, bits, width=width, height=height)
        with pytest.raises(UserError, match=r"cannot hold|GiB of memory"):
            decode(data)


@pytest.mark.parametrize(("width", "height"), [*HUGE, (3, -(2**31)), (3, 2**31 - 1), (2**30, 5), (1000, 1000)])
def test_a_bmp_that_states_more_than_can_be_is_refused_at_once(width: int, height: int) -> None:
    for dib, bits in itertools.product((40, 64, 124), (1, 4, 8, 16, 24, 32)):
        with pytest.raises(UserError, match=r"cannot hold|GiB of memory"):
            decode(bmp(width, height, bits, 0, dib, bytes(64)))
    for bits, packed in ((8, 1), (4, 2)):
        with pytest.raises(UserError, match=r"cannot hold|GiB of memory|not enough image data"):
            decode(bmp(width, height, bits, packed, 40, bytes(64)))


def test_a_bmp_of_one_line_has_that_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_nas.images.files.available_memory", lambda device: 2**60)
    for bits in (1, 8, 24, 32):
        with pytest.raises(UserError, match="cannot hold"):
            decode(bmp(2**30, 1, bits, 0, 40, bytes(64)))
    assert decode(bmp(3, 1, 24, 0, 40, bytes(12))).shape == (1, 3, 3)


def test_a_webp_and_a_jpeg_that_state_more_than_can_be_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    still = encoded(Image.fromarray(noise(6, 4, 3)), "WEBP", lossless=True)[12:]
    for canvas in (b"\xff\xff\xff\xff\0\0", b"\xff\xff\0\xfe\xff\0"):
        content = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas + still
        with pytest.raises(UserError, match="GiB of memory"):
            decode(b"RIFF" + struct.pack("<I", len(content)) + content)
    jpeg = encoded(Image.fromarray(noise(6, 4, 3)), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    with pytest.raises(UserError, match="cannot hold"):
        decode(jpeg[:size] + struct.pack(">HH", 65500, 65500) + jpeg[size + 4 :])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF", "JPEG"])
def test_an_image_that_exceeds_the_memory_says_so(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    data = encoded(Image.new("RGB", (2500, 2500)), form)
    monkeypatch.setattr("sr_nas.images.files.available_memory", lambda device: 50_000_000)
    with pytest.raises(UserError, match=r"2500x2500 pixels take 0\.1 GiB of memory to read, and 0\.0 GiB are free"):
        decode(data)


# Metadata


def with_segment(jpeg: bytes, number: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, 0xE0 + number, len(content) + 2) + content + jpeg[2:]


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
    tifffile.imwrite(tiff := io.BytesIO(), pixels, extratags=[(33723, 7, 8, b"you, too", True)], metadata=None)
    for data, others in (
        (encoded(image, "JPEG", xmp=b"<x/>"), ("XMP",)),
        (encoded(image, "JPEG", comment=b"hello"), ("text",)),
        (encoded(image, "MPO", save_all=True, append_images=[image]), ("further pictures",)),
        (with_segment(encoded(image, "JPEG"), 13, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x02me"), ("IPTC",)),
        (tiff.getvalue(), ("IPTC",)),
        (encoded(image, "PNG", pnginfo=text), ("text",)),
        (encoded(image, "PNG"), ()),
        (encoded(image, "TIFF"), ()),
        (encoded(image, "TIFF", tiffinfo={271: "a camera"}), ("EXIF",)),
        (png(pixels, 2, 8, chunk(b"gAMA", struct.pack(">I", 100000))), ("gamma",)),
        (png(pixels, 2, 8, chunk(b"gAMA", struct.pack(">I", 45455))), ()),  # sRGB's
        (png(pixels, 2, 8, chunk(b"cICP", bytes([9, 16, 0, 1]))), ("code points of a colour space",)),  # BT.2100, PQ
    ):
        metadata = decode_with_metadata(data)[1]
        assert metadata == Metadata(None, others, metadata.exif, b"<x/>" if others == ("XMP",) else b"")
        assert bool(metadata.exif) == (others == ("EXIF",))
