"""Image files: every pixel back in every format and depth, and no half images."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from sr_nas.errors import UserError
from sr_nas.images.decode import decode, decode_with_metadata
from sr_nas.images.files import IMAGE_SUFFIXES, find_images, list_images, natural_order, read_image, read_rgb, write_image


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def png(pixels: np.ndarray, colour_type: int, bits: int, extra: bytes = b"") -> bytes:
    """Write a PNG by its specification, for the kinds that neither Pillow nor OpenCV writes."""
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else ">u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


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
def test_other_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = noise(7, 5, channels)
    pixels[:3, :, -1] = 0  # colour below full transparency is kept too
    write_image(tmp_path / f"a{suffix}", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), pixels)


def test_other_readers_see_the_same_colours(tmp_path: Path) -> None:
    pixels = noise(7, 5, 4)
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
    write_image(tmp_path / "a.tif", pixels)
    image = TiffImageFile(tmp_path / "a.tif")
    assert image.mode == "RGBA" and image.tag_v2[338] == (2,), "the fourth channel is declared as alpha"
    write_image(tmp_path / "b.png", noise(7, 5, 3, dtype=np.uint16))
    opencv = np.asarray(cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED))
    np.testing.assert_array_equal(opencv[..., ::-1], noise(7, 5, 3, dtype=np.uint16))


def test_webp_knows_no_grey(tmp_path: Path) -> None:
    grey = noise(7, 5, 1)
    write_image(tmp_path / "a.webp", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), np.repeat(grey, 3, axis=2))


def test_sixteen_bit_grey_with_alpha_is_written_as_rgba(tmp_path: Path) -> None:
    pixels = noise(7, 5, 2, dtype=np.uint16)
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels[..., [0, 0, 0, 1]])


def test_an_image_of_two_axes_is_grey(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(7, 5))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(7, 5)[..., None])


def test_jpeg_obeys_its_quality_and_keeps_chroma(tmp_path: Path) -> None:
    ramp = np.linspace(60, 190, 64)
    stripes = np.stack(np.broadcast_arrays(ramp[:, None], 110 + 15 * (-1.0) ** np.arange(64), ramp[None, :]), axis=2)
    pixels = stripes.round().astype(np.uint8)
    errors = {}
    for quality in (30, 95):
        write_image(tmp_path / f"{quality}.jpg", pixels, quality=quality)
        errors[quality] = np.abs(read_image(tmp_path / f"{quality}.jpg").astype(float) - pixels).mean()
    assert errors[95] < 1.5 < errors[30]
    assert JpegImageFile(tmp_path / "95.jpg").layer == [(1, 1, 1, 0), (2, 1, 1, 1), (3, 1, 1, 1)], "4:4:4"
    write_image(tmp_path / "grey.jpeg", pixels[..., :1])
    assert read_image(tmp_path / "grey.jpeg").shape == (64, 64, 1)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int, form: str) -> None:
    pixels = noise(6, 4, 3)
    exif = Image.Exif()
    exif[274] = orientation
    settings = {"lossless": True} if form == "WEBP" else {}
    stored = Image.fromarray(pixels)
    read = decode(encoded(stored, form, exif=exif, **settings))
    stored.getexif()[274] = orientation
    np.testing.assert_array_equal(read, np.asarray(ImageOps.exif_transpose(stored)))
    if orientation == 6:  # a camera held upright: the first stored row is the right edge
        np.testing.assert_array_equal(read[:, -1], pixels[0])


def test_the_exif_orientation_of_a_jpeg_is_applied() -> None:
    exif = Image.Exif()
    exif[274] = 8
    assert decode(encoded(Image.fromarray(noise(6, 4, 3)), "JPEG", exif=exif)).shape == (4, 6, 3)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sixteen_bit_files_are_turned_once(orientation: int) -> None:
    pixels = noise(6, 4, dtype=np.uint16)
    upright = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1)}[orientation][..., None]
    tiff = encoded(Image.fromarray(pixels), "TIFF", tiffinfo={274: orientation})
    np.testing.assert_array_equal(decode(tiff), upright)
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    np.testing.assert_array_equal(decode(png(pixels, 0, 16, chunk(b"eXIf", exif))), upright)


def test_grey_with_alpha_is_told_from_rgba() -> None:
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        pixels = noise(6, 4, 2, dtype=dtype)
        np.testing.assert_array_equal(decode(png(pixels, 4, bits)), pixels)


def test_palettes_are_expanded() -> None:
    colours = noise(3, 3)
    indices = noise(6, 4) % 3
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), colours[indices])
    np.testing.assert_array_equal(decode(encoded(image, "BMP")), colours[indices])
    alpha = np.where(indices == 1, 0, 255)[..., None]
    np.testing.assert_array_equal(decode(encoded(image, "PNG", transparency=1)), np.dstack([colours[indices], alpha]))


def test_colour_keys_become_alpha() -> None:
    pixels = noise(6, 4, 3)
    pixels[2, 1] = (1, 2, 3)
    read = decode(png(pixels, 2, 8, chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))
    np.testing.assert_array_equal(read[..., :3], pixels)
    assert read[2, 1, 3] == 0 and (read[..., 3] == 0).sum() == 1
    grey = decode(png(pixels[..., 0], 0, 8, chunk(b"tRNS", struct.pack(">H", 1))))
    assert grey.shape == (6, 4, 2) and grey[2, 1].tolist() == [1, 0]
    for channels, colour_type in ((1, 0), (3, 2)):
        pixels = noise(6, 4, channels, dtype=np.uint16)
        pixels[2, 1] = (1000, 2000, 3000)[:channels]
        read = decode(png(pixels, colour_type, 16, chunk(b"tRNS", struct.pack(f">{channels}H", *pixels[2, 1]))))
        np.testing.assert_array_equal(read[..., :-1], pixels)
        assert read[2, 1, -1] == 0 and (read[..., -1] == 65535).sum() == 23


def test_one_bit_is_spread_over_the_range() -> None:
    bits = noise(6, 8) > 127
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(bits), "PNG"))[..., 0], bits * 255)


def test_cmyk_becomes_rgb() -> None:
    read = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert read.shape == (8, 8, 3)
    np.testing.assert_allclose(read[4, 4].astype(int), [255, 0, 0], atol=4)


def test_read_rgb_replicates_grey_drops_alpha_and_rounds_sixteen_bits(tmp_path: Path) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_image(tmp_path / "a.png", every)
    read = read_rgb(tmp_path / "a.png")
    assert read.dtype == np.uint8 and read.shape == (256, 256, 3)
    np.testing.assert_array_equal(read, np.round(every / 257.0)[..., None].repeat(3, 2))
    for channels, colour in ((1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])):
        write_image(tmp_path / "b.png", noise(6, 4, channels))
        np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), noise(6, 4, channels)[..., colour])


SMOOTH = cv2.GaussianBlur(noise(80, 60, 3), (0, 0), 2)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, form: str, settings: dict[str, object], kept: float) -> None:
    whole = encoded(Image.fromarray(SMOOTH), form, **settings)
    path = tmp_path / "photo.png"
    path.write_bytes(whole)
    assert read_image(path).shape == SMOOTH.shape
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=r"photo\.png: .*(cut off|damaged|empty)"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_sixteen_bit_files_that_are_cut_off_are_errors(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        path = tmp_path / f"a{suffix}"
        write_image(path, noise(40, 30, 3, dtype=np.uint16))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=f"a{suffix}"):
            read_image(path)


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
def test_files_of_other_kinds_are_errors_that_say_why(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"x\.tif: .*{why}"):
        read_image(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_is_complete_and_agrees_with_its_checksums(bits: int) -> None:
    pixels = noise(40, 30, 3, dtype=np.uint16 if bits == 16 else np.uint8)
    whole = png(pixels, 2, bits)
    at = whole.index(b"IDAT") + 4
    checksum = len(whole) - 12 - 4
    changed = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in (at + 40, checksum - 6, checksum)]
    for broken in (whole[:-20], whole[:-12], whole[:-1], *changed):
        with pytest.raises(UserError, match=r"damaged|cut off"):
            decode(broken)
    np.testing.assert_array_equal(decode(whole + b"more behind its end"), pixels)


def test_an_error_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(JpegImageFile, "load", fail)
    with pytest.raises(UserError, match=r"too large \(MemoryError\)"):
        decode(encoded(Image.fromarray(noise(6, 4, 3)), "JPEG"))


@pytest.mark.filterwarnings("error")
def test_exif_that_cannot_be_read_warns_nobody_and_is_named() -> None:
    damaged = encoded(Image.fromarray(noise(6, 4, 3)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x0f\x01")
    pixels, metadata = decode_with_metadata(damaged)
    assert pixels.shape == (6, 4, 3) and metadata.others == ("EXIF",)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot read the image"):
        read_image(tmp_path)


def test_the_jpeg_of_a_camera_with_a_preview_is_read() -> None:
    two = encoded(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    np.testing.assert_array_equal(decode(two), decode(encoded(Image.fromarray(SMOOTH), "JPEG")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_images_over_the_limit_of_pillow_are_read(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(SMOOTH), form)), SMOOTH)
    assert Image.MAX_IMAGE_PIXELS == 3


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


def test_arrays_that_are_no_images_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros((4, 4, 3)), np.zeros((4,), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="no image"):
            write_image(tmp_path / "a.png", array)


def test_a_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.png"
    write_image(path, noise(4, 4, 3))

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(UserError, match=r"a\.png: No space left"):
        write_image(path, noise(9, 9, 3))
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    assert read_image(path).shape == (4, 4, 3)


def test_listing_is_sorted_and_takes_images_only(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]
    assert set(IMAGE_SUFFIXES) == {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def test_finding_goes_into_folders_but_not_into_hidden_ones_or_the_output(tmp_path: Path) -> None:
    for name in ("b.png", "clip/frame_000010.png", "clip/frame_000009.PNG", ".git/a.png", "out/b.png", "clip/out/c.png", "x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.png").symlink_to("itself.png")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    found = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path, besides=tmp_path / "clip" / ".." / "out")]
    assert found == ["b.png", "clip/frame_000009.PNG", "clip/frame_000010.png", "clip/out/c.png"]
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"no image in .*x or below"):
        find_images(tmp_path / "x", tmp_path)


def test_natural_order_counts() -> None:
    names = ["frame_10.png", "frame_9.png", "Frame_11.png", "1.png", "a.png", "frame_9a.png", "frame_09.png"]
    found = sorted(map(Path, names), key=natural_order)
    assert [path.name for path in found] == [
        *("1.png", "a.png", "frame_09.png", "frame_9.png", "frame_9a.png", "frame_10.png", "Frame_11.png")
    ]


def test_listing_nothing_says_what_it_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_images(tmp_path / "none")
    with pytest.raises(UserError, match="found nothing"):
        list_images(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "HR").mkdir()
    with pytest.raises(UserError, match=r"found HR/, notes\.txt"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        list_images(tmp_path / "notes.txt")


def test_jpeg_pixels_equal_opencv(shared: Path) -> None:
    path = shared / "data/train/BSDS200/100080.jpg"
    np.testing.assert_array_equal(read_image(path), np.asarray(cv2.imread(str(path)))[..., ::-1])
