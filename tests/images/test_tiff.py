"""TIFF: alpha of every kind and layout, kinds that are not read, thumbnails, headers that state too much."""

from __future__ import annotations

import io
import itertools
import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_nas.errors import UserError
from sr_nas.images.encode import encode
from sr_nas.images.files import decode, image_size
from tests.images.encoded import encoded, noise

COLOURS = {"minisblack": 1, "miniswhite": 1, "rgb": 3}


def tiff(pixels: np.ndarray, photometric: str, extra: str | None = None, **settings: object) -> bytes:
    stream = io.BytesIO()
    stored = (
        np.moveaxis(pixels, -1, 0)
        if settings.get("planarconfig") == "separate"
        else pixels.squeeze(2)
        if pixels.shape[2] == 1
        else pixels
    )
    tifffile.imwrite(stream, stored, photometric=photometric, extrasamples=[extra] if extra else None, metadata=None, **settings)
    return stream.getvalue()


def divided(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours without the alpha that was multiplied into them, by exact fractions, rounded half up."""
    most, result = int(np.iinfo(colour.dtype).max), np.zeros_like(colour)
    for place in np.ndindex(colour.shape):
        if alpha[place[:2]]:
            result[place] = min(most, int(Fraction(int(colour[place]) * most, int(alpha[place[:2]])) + Fraction(1, 2)))
    return result


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [None, "unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("photometric", COLOURS)
def test_alpha_is_divided_out_kept_or_dropped_in_every_layout(photometric: str, extra: str | None, dtype: type) -> None:
    colours, most = COLOURS[photometric], np.iinfo(dtype).max
    pixels = noise(7, 5, colours + (extra is not None), dtype=dtype)
    pixels[0, :2, -1] = 0, most
    colour, alpha = pixels[..., :colours], pixels[..., -1]
    colour = most - colour if photometric == "miniswhite" else colour
    colour = divided(colour, alpha) if extra == "assocalpha" else colour
    expected = np.dstack([colour, alpha]) if extra in ("assocalpha", "unassalpha") else colour
    for order, planes, compression, tile, big in itertools.product(
        "<>", ("contig", "separate"), (None, "zlib"), (None, (16, 16)), (False, True)
    ):
        planar = {"planarconfig": planes} if pixels.shape[2] > 1 else {}
        data = tiff(pixels, photometric, extra, byteorder=order, compression=compression, tile=tile, bigtiff=big, **planar)
        read = decode(data)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, expected, f"{order} {planes} {compression} {tile} {big}")


@pytest.mark.parametrize("channels", [2, 4])
def test_what_pillow_unpacks_is_divided_exactly_too(channels: int) -> None:
    pixels = noise(7, 5, channels)
    data = encoded(Image.fromarray(pixels), "TIFF", compression="tiff_lzw")
    stated = [struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1)]
    assert stated[0] in data
    data = data.replace(*stated)
    np.testing.assert_array_equal(decode(data), np.dstack([divided(pixels[..., :-1], pixels[..., -1]), pixels[..., -1]]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lzw_of_16_bits_is_read(channels: int) -> None:
    pixels = noise(7, 5, channels, dtype=np.uint16)
    bgr = np.ascontiguousarray(pixels[..., [2, 1, 0, 3][:channels] if channels > 1 else [0]])
    np.testing.assert_array_equal(decode(cv2.imencode(".tif", bgr, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()), pixels)


@pytest.mark.parametrize(
    ("pixels", "photometric", "settings", "why"),
    [
        (noise(4, 4, 3).astype(np.float16), "rgb", {}, "16-bit floating point"),
        (noise(4, 4, 1).astype(np.float64), "minisblack", {}, "64-bit floating point"),
        (noise(4, 4, 1).astype(np.int16), "minisblack", {}, "16-bit integers with a sign"),
        (noise(4, 4, 1).astype(np.int8), "minisblack", {}, "8-bit integers with a sign"),
        (noise(4, 4, 3).astype(np.uint32), "rgb", {}, "32-bit integers, 3 a pixel"),
        (noise(4, 4, 5, dtype=np.uint16), "minisblack", {"planarconfig": "contig"}, "16-bit integers, 5 a pixel"),
        (noise(4, 4, 5), "rgb", {"planarconfig": "contig"}, "8-bit integers, 5 a pixel"),
        (noise(4, 4, 4, dtype=np.uint16), "separated", {}, "16-bit integers, 4 a pixel .*SEPARATED"),
    ],
)
def test_a_kind_that_is_not_read_is_named(pixels: np.ndarray, photometric: str, settings: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        decode(tiff(pixels, photometric, **settings))


def tags(**values: int) -> bytes:
    """Write a TIFF of 8-bit grey, uncompressed, of one strip of 16 bytes, with other tags instead or besides."""
    entries = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 4, 279: 16}
    entries |= {int(tag[1:]): value for tag, value in values.items()}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return (struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table).ljust(200, b"\0") + bytes(range(16))


def test_compressions_that_lack_a_library_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    np.testing.assert_array_equal(decode(tags())[..., 0].ravel(), range(16))
    for compression, name in ((50000, "ZSTD"), (34933, "PNG"), (7, "JPEG")):
        with pytest.raises(UserError, match=f"not read with {name} compression"):
            decode(tags(t258=16, t259=compression))
    for compression in (4, 5):
        with pytest.raises(UserError, match="damaged"):
            decode(tags(t258=1 if compression == 4 else 8, t259=compression))
    assert capfd.readouterr() == ("", ""), "OpenCV and libtiff say nothing beside the message"


def test_a_thumbnail_is_no_second_image(tmp_path: Path) -> None:
    photo, small = noise(7, 5, 3), noise(2, 2, 3)
    for order in ((photo, small), (small, photo)):
        for dtype in (np.uint8, np.uint16):
            with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
                for pixels in order:
                    writer.write(pixels.astype(dtype), photometric="rgb", subfiletype=int(pixels is small), metadata=None)
            np.testing.assert_array_equal(decode((tmp_path / "a.tif").read_bytes()), photo)
            assert image_size(tmp_path / "a.tif") == (7, 5)


def test_strips_that_are_missing_or_cut_off_are_an_error() -> None:
    for changed in ({"t257": 8}, {"t279": 0, "t258": 16}, {"t279": 8, "t278": 2}, {"t273": 900}, {"t273": 0}):
        with pytest.raises(UserError, match="damaged"):
            decode(tags(**changed))


def test_a_layout_of_no_known_kind_is_an_error() -> None:
    row = {"t257": 1, "t278": 1, "t262": 2, "t277": 3, "t279": 12}
    np.testing.assert_array_equal(decode(tags(**row, t284=1)).ravel(), range(12))
    with pytest.raises(UserError, match="damaged: what it states about the layout"):
        decode(tags(**row, t284=32773))
    deep = cv2.imencode(".tif", noise(4, 4, 3, dtype=np.uint16))[1].tobytes()
    assert decode(deep).shape == (4, 4, 3)
    with pytest.raises(UserError, match="damaged: what it states about the layout"):
        decode(deep.replace(struct.pack("<H", 277), struct.pack("<H", 347), 1))  # no SamplesPerPixel


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("size", [(2**32 - 1, 2**32 - 1), (2**31, 2**31), (2**20, 2**20)])
def test_more_pixels_than_the_file_or_the_memory_hold_are_refused_at_once(
    size: tuple[int, int], bits: int, compression: int
) -> None:
    stated = {"t256": size[0], "t257": size[1], "t278": size[1]}
    tiled = {"t322": 2**32 - 16, "t323": 2**32 - 16, "t324": 200, "t325": 16}
    for values in (stated, tiled, stated | tiled):
        with pytest.raises(UserError, match=r"cannot hold|GiB of memory|tiles are missing"):
            decode(tags(t258=bits, t259=compression, **values))


def test_16_bits_with_alpha_are_written_for_every_reader(capfd: pytest.CaptureFixture[str]) -> None:
    for channels in (2, 4):
        data = encode(noise(7, 5, channels, dtype=np.uint16), ".tif")
        assert tifffile.TiffFile(io.BytesIO(data)).pages[0].extrasamples == (2,)
        assert Image.open(io.BytesIO(data)).convert("RGBA").getchannel("A").getextrema()[0] < 255
        np.testing.assert_array_equal(decode(data)[..., -1], noise(7, 5, channels, dtype=np.uint16)[..., -1])
    assert capfd.readouterr() == ("", "")
