"""Image files: listed, measured, read and written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from sr_nas.errors import UserError
from sr_nas.images.files import CONVERTED, IMAGE_SUFFIXES, check_readable, image_size, read_image, read_rgb, write_image
from sr_nas.images.folders import find_images, is_folder, list_images, natural_order
from tests.images.encoded import chunk, make_unreadable, noise


def test_read_rgb_replicates_grey_drops_alpha_and_rounds_sixteen_bits(tmp_path: Path) -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_image(tmp_path / "a.png", every)
    read = read_rgb(tmp_path / "a.png")
    assert read.dtype == np.uint8 and read.shape == (256, 256, 3)
    np.testing.assert_array_equal(read, np.round(every / 257.0)[..., None].repeat(3, 2))
    for channels, colour in ((1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])):
        write_image(tmp_path / "b.png", noise(6, 4, channels))
        np.testing.assert_array_equal(read_rgb(tmp_path / "b.png"), noise(6, 4, channels)[..., colour])


def test_jpeg_pixels_equal_opencv(shared: Path) -> None:
    path = shared / "data/train/BSDS200/100080.jpg"
    np.testing.assert_array_equal(read_image(path), np.asarray(cv2.imread(str(path)))[..., ::-1])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.png: No such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot read the image"):
        read_image(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            image_size(tmp_path / name)


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


def test_listing_is_sorted_and_takes_images_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "d.JFIF", "e.jpe", "notes.txt", ".hidden.png", "._a.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp", "d.JFIF", "e.jpe"]
    assert set(IMAGE_SUFFIXES) - set(CONVERTED) == {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff"}
    assert capsys.readouterr() == ("", "")


def test_images_of_other_kinds_are_counted_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.JXL", "c.emf", "d.gif", "e.Jp2", "f.tga", "g.CR2", "h.psd", "notes.json", ".i.gif", "j.png.dvc"):
        (tmp_path / name).touch()
    (tmp_path / "folder.gif").mkdir()
    for _ in range(2):
        assert [path.name for path in list_images(tmp_path)] == ["a.png"]
    text = f"{tmp_path}: 7 images of other kinds are left out (b.JXL, c.emf, d.gif, e.Jp2, f.tga ... and 2 more)\n"
    assert capsys.readouterr().err == text


def test_what_cannot_be_read_is_listed_and_refused_when_it_is_read(tmp_path: Path) -> None:
    reasons = make_unreadable(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "socket.png").symlink_to("/dev/null")
    reasons |= {"folder.png": "it is a folder", "socket.png": "a device"}
    assert {path.name for path in list_images(tmp_path)} == {*reasons, "shut.png"}
    for name, reason in reasons.items():
        for read in (read_image, image_size):
            with pytest.raises(UserError, match=rf"cannot read the image .*{name}: .*{reason}"):
                read(tmp_path / name)
    with pytest.raises(UserError) as raised:
        check_readable(str(path) for path in list_images(tmp_path))
    assert str(raised.value).startswith(f"{len(reasons)} of 6 files of the data set cannot be read:\n  {tmp_path}")
    assert all(f"{tmp_path / name}: " in str(raised.value) for name in reasons)


def test_a_folder_is_there_or_not_or_the_question_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "LR/x2").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("LR")
    (tmp_path / "broken").symlink_to("/nowhere")
    names = ("LR/x2", "link/x2", "link", "LR/x3", "none/x2", "file", "file/x2")
    assert [is_folder(tmp_path / name) for name in names] == [True, True, True, False, False, False, False]
    for name in ("broken", "broken/x2"):
        with pytest.raises(UserError, match=r"broken cannot be read as a folder: it is a link to /nowhere, which is not there"):
            is_folder(tmp_path / name)


def test_listing_nothing_says_what_is_there(tmp_path: Path) -> None:
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


def test_finding_goes_into_folders_but_not_into_hidden_ones_or_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b.png", "clip/frame_000010.png", "clip/frame_000009.PNG", ".git/a.png", "out/b.png", "clip/out/c.png", "x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a.png/d.png").symlink_to("/nowhere")
    out = tmp_path / "clip" / ".." / "out"
    images = {"b.png", "clip/frame_000009.PNG", "clip/frame_000010.png", "clip/out/c.png", "a.png/d.png"}
    assert {str(path.relative_to(tmp_path)) for path in find_images(tmp_path, recursive=True, besides=out)} == images
    assert capsys.readouterr().err == f"{tmp_path}: 1 links to folders are not followed (loop)\n"
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"no image in .*x or below.*found nothing"):
        find_images(tmp_path / "x", recursive=True)


def test_links_to_folders_are_followed_into_each_once(tmp_path: Path) -> None:
    for name in ("set/a/1.png", "set/a/b/2.png", "elsewhere/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "set/a/b/loop").symlink_to(tmp_path / "set")
    for name in ("one", "other"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    images = find_images(tmp_path / "set", recursive=True, follow=True)
    assert sorted(path.name for path in images) == ["1.png", "2.png", "3.png"]


def test_a_folder_that_cannot_be_listed_is_among_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def refused(place: str) -> Any:  # as root, every folder can be listed
        if place.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr("os.scandir", refused)
    assert set(find_images(tmp_path, recursive=True)) == {tmp_path / "locked", tmp_path / "a.png"}
    assert find_images(tmp_path) == [tmp_path / "a.png"]


def test_natural_order_counts() -> None:
    names = ["frame_10.png", "frame_9.png", "Frame_11.png", "1.png", "a.png", "frame_9a.png", "frame_09.png"]
    assert [path.name for path in sorted(map(Path, names), key=natural_order)] == [
        *("1.png", "a.png", "frame_09.png", "frame_9.png", "frame_9a.png", "frame_10.png", "Frame_11.png")
    ]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_the_size_is_that_of_what_is_read(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", np.zeros((5, 7, 3), np.uint8))
    assert image_size(tmp_path / f"a{suffix}") == (5, 7) == read_image(tmp_path / f"a{suffix}").shape[:2]


def test_only_the_header_is_read_for_the_size(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_image(file, noise(300, 47, 3))
    file.write_bytes(file.read_bytes()[:100])
    assert image_size(file) == (300, 47)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_that_lie_on_their_side_are_measured_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (7, 5)).save(tmp_path / f"a{suffix}", exif=exif)
    assert image_size(tmp_path / f"a{suffix}") == read_image(tmp_path / f"a{suffix}").shape[:2]


def test_the_orientation_in_the_xmp_of_a_png_counts(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    file = tmp_path / "a.png"
    Image.new("RGB", (7, 5)).save(file)
    plain = file.read_bytes()
    file.write_bytes(plain[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp) + plain[33:])
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


def test_a_broken_link_that_may_have_led_to_a_folder_is_no_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "notes").touch()
    (tmp_path / "below").symlink_to("/nowhere/annex")
    (tmp_path / "read.me").symlink_to("/nowhere/read.me")
    assert set(find_images(tmp_path, recursive=True)) == {tmp_path / "a.png", tmp_path / "below"}
    assert find_images(tmp_path) == [tmp_path / "a.png"]
