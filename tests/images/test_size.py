"""Sizes without decoding."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from sr_nas.errors import UserError
from sr_nas.images.files import image_size, read_image, whole_png_size, write_image


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_it_is_the_size_of_what_is_read(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", np.zeros((5, 7, 3), np.uint8))
    assert image_size(tmp_path / f"a{suffix}") == (5, 7) == read_image(tmp_path / f"a{suffix}").shape[:2]


def test_only_the_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_image(file, np.random.default_rng(0).integers(0, 256, (300, 47, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:100])
    assert image_size(file) == (300, 47)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_that_lie_on_their_side_are_measured_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (7, 5)).save(tmp_path / f"a{suffix}", exif=exif)
    assert image_size(tmp_path / f"a{suffix}") == read_image(tmp_path / f"a{suffix}").shape[:2]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TURNED = Image.Exif()
TURNED[274] = 6
ON_ITS_SIDE = {
    "eXIf": png_chunk(b"eXIf", TURNED.tobytes()[6:]),
    "XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + XMP),
}


@pytest.mark.parametrize("place", ["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("kind", ON_ITS_SIDE)
def test_a_png_may_tell_its_orientation_anywhere(tmp_path: Path, kind: str, place: str) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (7, 5)).save(file)
    plain = file.read_bytes()
    at = 33 if "before" in place else len(plain) - 12  # behind IHDR or before IEND
    file.write_bytes(plain[:at] + ON_ITS_SIDE[kind] + plain[at:])
    assert image_size(file) == (7, 5) == read_image(file).shape[:2]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_tiff_on_its_side_is_measured_upright_by_every_pillow(
    tmp_path: Path, orientation: int, swapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.tif"
    Image.new("RGB", (7, 5)).save(file, tiffinfo={274: orientation})
    upright = (7, 5) if orientation == 6 else (5, 7)
    assert read_image(file).shape[:2] == upright
    # Pillow 10 gives the size as it is stored, Pillow 13 upright.
    size = upright[::-1] if swapped else (7, 5)
    monkeypatch.setattr(TiffImageFile, "size", property(lambda self: size))
    assert image_size(file) == upright


def test_what_is_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            image_size(tmp_path / name)


def test_a_png_is_whole_or_not(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_image(file, np.zeros((5, 7), np.uint8))
    assert whole_png_size(file) == (5, 7)
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:30], b"", b"x" + whole[1:]):
        file.write_bytes(broken)
        assert whole_png_size(file) is None
    assert whole_png_size(tmp_path / "missing.png") is None
