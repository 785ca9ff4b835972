"""Photos with EXIF, GPS and XMP, as cameras write them, read again by Pillow and tifffile."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, features
from PIL.ExifTags import IFD

from sr_nas.errors import UserError
from sr_nas.images.encode import encode
from sr_nas.images.files import decode_with_metadata, image_size, read_image, read_with_metadata
from sr_nas.images.folders import find_images
from sr_nas.images.metadata import fitted
from sr_nas.inference.images import upscale_files
from tests.images.encoded import encoded, noise
from tests.inference.test_upscale_files import Nearest, doubled

FORMS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}
THUMBNAIL = b"\xff\xd8 a picture of the smaller one \xff\xd9"
GPS = {1: "N", 2: (52.0, 31.0, 12.25), 3: "E", 4: (13.0, 24.0, 18.5), 5: b"\0", 6: 34.5, 29: "2026:11:29"}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" exif:PixelXDimension="5" dc:rights="m\xc3\xbcr">'
    b"<tiff:ImageLength>4</tiff:ImageLength><xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails>"
    b"</rdf:Description></x:xmpmeta>"
)


def camera(order: str = "<", orientation: int = 6) -> bytes:
    """An EXIF block of a camera for 5x4 pixels: GPS, a maker note, a name in UTF-8, and a thumbnail in a second directory."""
    exif = Image.Exif()
    exif.endian = order
    exif[256], exif[257], exif[271], exif[274] = 5, 4, "a camera", orientation
    exif[315], exif[282] = "M___ller", 300.0
    exif[34665] = {
        40962: 5,
        40963: 4,
        33434: 0.004,
        37500: b"maker's own \0 note",
        36867: "2026:11:29 19:00:00",
        40965: {1: "R98"},
    }
    exif[34853] = GPS
    block = exif.tobytes()[6:].replace(b"M___ller", "Müxller".encode())  # Pillow writes ASCII alone
    second = 8 + 2 + 12 * struct.unpack_from(f"{order}H", block, 8)[0]
    assert block[second : second + 4] == bytes(4)
    at = len(block)
    table = struct.pack(f"{order}H", 2)
    for tag, value in ((513, at + 30), (514, len(THUMBNAIL))):
        table += struct.pack(f"{order}HHLL", tag, 4, 1, value)
    return block[:second] + struct.pack(f"{order}L", at) + block[second + 4 :] + table + bytes(4) + THUMBNAIL


def tags_of(block: bytes) -> dict[str, object]:
    """Return all fields by their directory, as Pillow reads them."""
    exif = Image.Exif()
    exif.load(block)
    tables = {"0": dict(exif), "exif": exif.get_ifd(IFD.Exif), "gps": exif.get_ifd(IFD.GPSInfo), "1": exif.get_ifd(IFD.IFD1)}
    tables["interop"] = exif.get_ifd(IFD.Interop)
    return {
        f"{name} {tag}": value
        for name, table in tables.items()
        for tag, value in table.items()
        if tag not in (34665, 34853, 40965)
    }


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_field_is_kept_but_orientation_sizes_and_thumbnail(order: str) -> None:
    block = camera(order)
    before = tags_of(block)
    assert before["1 514"] == len(THUMBNAIL) and before["gps 2"] == GPS[2] and before["interop 1"] == "R98"
    exif, _ = fitted(block, b"", "JPEG", 8, 10)
    after = tags_of(exif)
    changed = {"0 256": 10, "0 257": 8, "0 274": 1, "exif 40962": 10, "exif 40963": 8}
    assert after == {tag: value for tag, value in before.items() if not tag.startswith("1 ")} | changed
    assert THUMBNAIL not in exif and "Müxller".encode() in exif and b"maker's own \0 note" in exif
    offsets = [value for _, _, count, value in struct.iter_unpack(f"{order}HHLL", exif[10 : 10 + 12 * exif[8 + (order == ">")]])]
    assert all(offset % 2 == 0 for offset in offsets if offset > 10), "values begin on a word (TIFF 6.0, section 2)"
    assert fitted(exif, b"", "PNG", 8, 10)[0] == exif, "of a block that fits already nothing changes"


def test_xmp_is_kept_but_orientation_sizes_and_thumbnails() -> None:
    _, xmp = fitted(b"", XMP, "PNG", 8, 10)
    thumbnails = b"<xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails>"
    expected = XMP.replace(b'Orientation="6"', b'Orientation="1"').replace(b'XDimension="5"', b'XDimension="10"')
    assert xmp == expected.replace(b"Length>4<", b"Length>8<").replace(thumbnails, b"")
    for other in (b'<a xmpNote:HasExtendedXMP="0"/>', b"<Container:Directory/>", "<utf16/>".encode("utf-16")):
        assert fitted(b"", other, "PNG", 8, 10)[1] == b""


def test_what_is_damaged_or_too_large_is_left_out() -> None:
    block = camera()
    for length in range(len(block)):
        exif, _ = fitted(block[:length], b"", "JPEG", 8, 10)
        assert not exif or tags_of(exif)
    for damaged in (b"", b"garbage", bytes(40), b"II+\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"):
        assert fitted(damaged, b"", "JPEG", 8, 10)[0] == b""
    exif = Image.Exif()
    exif[270] = "x" * 65500
    for form, held in (("JPEG", False), ("PNG", True), ("BMP", False)):
        assert bool(fitted(exif.tobytes(), b"", form, 8, 10)[0]) is held
        assert bool(fitted(b"", b"x" * 65503, form, 8, 10)[1]) is held


def test_small_files_cost_little_whatever_they_state() -> None:
    shared = [(700 + number, 1, 100_000, 8) for number in range(9000)]  # which have all their bytes in common
    for entries in ([(34665, 4, 1, 8)] * 9000, shared):
        table = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
        block = b"II*\0" + struct.pack("<LH", 8, len(entries)) + table + bytes(4)
        assert len(fitted(block, b"", "PNG", 8, 10)[0]) < len(block)
    xmp = b"<a:Thumbnails>" * 20_000  # none of which ends
    assert fitted(b"", xmp, "PNG", 8, 10)[1] == b"" and fitted(b"", b"<b:Thumbnails/><c/>", "PNG", 8, 10)[1] == b"<c/>"


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(tmp_path: Path, suffix: str, orientation: int) -> None:
    image, exif = Image.fromarray(noise(4, 5, 3)), Image.Exif()
    exif[274], exif[271] = orientation, "a camera"
    image.save(tmp_path / f"a.{suffix}", FORMS[suffix], exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    (outcome,) = upscale_files(Nearest(), [tmp_path / f"a.{suffix}"], tmp_path / "out", device="cpu")
    assert outcome.status == "written" and outcome.dropped == ()
    with Image.open(outcome.output) as upscaled:
        assert upscaled.getexif()[271] == "a camera" and upscaled.getexif().get(274, 1) == 1
        assert upscaled.size == (2 * expected.shape[1], 2 * expected.shape[0])
    if suffix != "jpg":
        np.testing.assert_array_equal(read_image(outcome.output), doubled(expected))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("suffix", "dtype"), [*((suffix, np.uint8) for suffix in FORMS), ("png", np.uint16), ("tif", np.uint16)])
def test_a_photo_keeps_its_place_and_time_in_every_format(tmp_path: Path, suffix: str, dtype: type, order: str) -> None:
    pixels = noise(4, 5, 3, dtype=dtype)
    exif, xmp = fitted(camera(order), XMP, FORMS[suffix], 4, 5)
    source = tmp_path / f"a.{suffix}"
    source.write_bytes(encode(pixels, f".{suffix}", exif=exif, xmp=xmp))
    (outcome,) = upscale_files(Nearest(), [source], tmp_path / "out", device="cpu")
    assert (outcome.status, outcome.dropped) == ("written", ())
    upscaled, metadata = read_with_metadata(outcome.output)
    plain = encode(upscaled, f".{suffix}", None if suffix != "jpg" else 95)
    if suffix != "jpg":
        np.testing.assert_array_equal(upscaled, doubled(pixels))
        np.testing.assert_array_equal(read_image(outcome.output), decode_with_metadata(plain)[0])
    after, before = tags_of(metadata.exif.removeprefix(b"Exif\0\0")), tags_of(exif)
    sizes = {"0 256": 10, "0 257": 8, "exif 40962": 10, "exif 40963": 8}
    expected = {tag: sizes.get(tag, value) for tag, value in before.items()}
    if suffix == "tif":  # whose other tags are of the file
        expected = {tag: value for tag, value in expected.items() if tag not in ("0 256", "0 257", "0 282", "0 274")}
    assert after == expected and metadata.xmp == fitted(b"", XMP, "PNG", 8, 10)[1]
    with Image.open(outcome.output) as image:  # what other readers see
        assert image.getexif()[271] == "a camera" and image.getexif().get_ifd(IFD.GPSInfo)[2] == GPS[2]
    if suffix == "tif":
        with tifffile.TiffFile(outcome.output) as file:
            assert len(file.pages) == 1 and file.pages[0].tags[34665].value["ExposureTime"] == 0.004
            np.testing.assert_array_equal(file.pages[0].asarray() if dtype == np.uint16 else upscaled, upscaled)


def test_a_tiff_with_a_thumbnail_first_gives_the_tags_of_its_picture(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=">") as file:
        file.write(noise(2, 2, 3), subfiletype=1, description="small", metadata=None)
        file.write(
            noise(4, 5, 3, dtype=np.uint16), subfiletype=0, description="large", datetime="2026:11:29 19:00:00", metadata=None
        )
    (outcome,) = upscale_files(Nearest(), [tmp_path / "a.tif"], tmp_path / "out", device="cpu")
    assert outcome.dropped == ()
    with tifffile.TiffFile(outcome.output) as file:
        (page,) = file.pages
        assert page.tags[270].value == "large" and page.tags[306].value == "2026:11:29 19:00:00" and page.shape == (8, 10, 3)


def test_what_a_file_of_another_format_holds_goes_with_the_name(tmp_path: Path) -> None:
    photo = encoded(Image.fromarray(noise(4, 5, 3)), "JPEG", exif=b"Exif\0\0" + camera(">", 1))
    for name in ("a.tif", "a.bmp", "a.png"):
        (tmp_path / name).write_bytes(photo)
    outcomes = list(upscale_files(Nearest(), sorted(tmp_path.iterdir()), tmp_path / "out", device="cpu"))
    assert [outcome.dropped for outcome in outcomes] == [("EXIF",), (), ()]
    with Image.open(outcomes[2].output) as image:
        assert image.getexif().endian == "<" and image.getexif().get_ifd(IFD.GPSInfo) == GPS
        assert image.getexif().get_ifd(IFD.Exif)[40962] == 10


def test_quality_is_of_jpeg_and_webp(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.webp", "c.png"):
        (tmp_path / name).write_bytes(encode(noise(40, 40, 3), f".{name[2:]}"))
    sizes: dict[int | None, list[int]] = {}
    for quality in (None, 95, 40):
        outcomes = upscale_files(Nearest(), sorted(tmp_path.glob("*.*")), tmp_path / f"{quality}", device="cpu", quality=quality)
        sizes[quality] = [outcome.output.stat().st_size for outcome in outcomes]
    for file, best in ((0, sizes[95][0]), (1, sizes[None][1])):
        assert sizes[None][file] == best != sizes[40][file] < sizes[95][file]
    assert sizes[None][2] == sizes[40][2]
    np.testing.assert_array_equal(read_image(tmp_path / "None" / "b.webp"), doubled(read_image(tmp_path / "b.webp")))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_becomes_jpeg(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "a camera"
    Image.new("RGB", (12, 8), (200, 30, 30)).save(tmp_path / "a.avif", exif=exif)
    assert find_images(tmp_path) == [tmp_path / "a.avif"]
    assert image_size(tmp_path / "a.avif") == ((8, 12) if orientation == 1 else (12, 8))
    check_converted(tmp_path / "a.avif", orientation)


def test_heic_becomes_jpeg(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pip install 'sr_nas[heic]'")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a camera"  # in HEIF it is for information alone: a property turns the picture, and here none does
    Image.new("RGB", (12, 8), (200, 30, 30)).save(tmp_path / "a.HEIC", "HEIF", exif=exif)
    assert find_images(tmp_path) == [tmp_path / "a.HEIC"]
    check_converted(tmp_path / "a.HEIC", 1)


def check_converted(file: Path, orientation: int) -> None:
    (outcome,) = upscale_files(Nearest(), [file], file.parent / "out", device="cpu")
    assert (outcome.status, outcome.dropped, outcome.output.name) == ("written", (), "a.jpg"), outcome.message
    with Image.open(outcome.output) as image:
        assert image.format == "JPEG" and image.size == ((24, 16) if orientation == 1 else (16, 24))
        assert image.getexif()[271] == "a camera" and image.getexif().get(274, 1) == 1
        assert np.abs(np.asarray(image).astype(int) - (200, 30, 30)).max() < 12


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, brand, install in (("pillow_heif", b"heic", r"sr_nas\[heic\]"), ("PIL.AvifImagePlugin", b"avif", "pillow>=11.3")):
        monkeypatch.setitem(sys.modules, module, None)
        (tmp_path / "photo").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
        with pytest.raises(UserError, match=rf"photo: it is \w+, which is read after: pip install .*'.*{install}'"):
            read_image(tmp_path / "photo")
    with pytest.raises(UserError, match="of a kind that is not read"):
        decode_with_metadata(b"\0\0\0\x18ftypisom" + bytes(40))


def test_the_stream_is_read_once() -> None:
    stream = io.BytesIO(encoded(Image.fromarray(noise(4, 5, 3)), "JPEG", exif=b"Exif\0\0" + camera(), xmp=XMP))
    _, metadata = decode_with_metadata(stream.getvalue())
    assert metadata.others == ("EXIF", "XMP") and metadata.exif.endswith(THUMBNAIL) and metadata.xmp == XMP
