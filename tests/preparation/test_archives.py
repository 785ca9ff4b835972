"""Archives that are safe, and those that are not."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.preparation.download import extract, opened

DANGEROUS = ["../up.png", "/top.png", "a/../../up.png", "a\\..\\up.png", "C:/up.png"]


def tar_of(file: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 3) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size if kind == tarfile.REGTYPE else 0, "elsewhere"
    return info


def zip_of(file: Path, names: list[str], mode: int = 0) -> Path:
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            packed.writestr(info, b"xxx")
    return file


def paths(file: Path) -> list[str]:
    with opened(file, "") as members:
        return [member.path for member in members]


def test_files_are_listed_and_extracted(tmp_path: Path) -> None:
    made = [zip_of(tmp_path / "a.zip", ["./a/1.png", "b.png"]), tar_of(tmp_path / "a.tar", member("./a/1.png"), member("b.png"))]
    for file in made:
        assert paths(file) == ["a/1.png", "b.png"]
        with opened(file, "") as members:
            extract(members[0], tmp_path / f"{file.name}.out")
        assert (tmp_path / f"{file.name}.out").read_bytes() == b"xxx"


@pytest.mark.parametrize("name", DANGEROUS)
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    for file in (zip_of(tmp_path / "a.zip", ["fine.png", name]), tar_of(tmp_path / "a.tar", member("fine.png"), member(name))):
        with pytest.raises(UserError, match="leads out of its folder"):
            paths(file)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(UserError, match="a link or a device"):
        paths(tar_of(tmp_path / "a.tar", member("fine.png"), member("link.png", kind)))


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a link or a device"):
        paths(zip_of(tmp_path / "a.zip", ["link.png"], 0o120777))


def test_one_path_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'A\.png' twice"):
        paths(tar_of(tmp_path / "a.tar", member("a.png"), member("./A.png")))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_that_is_cut_off_is_said_to_be(tmp_path: Path, name: str) -> None:
    noise = bytes(range(256)) * 400
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.writestr("a.png", noise)
    else:
        with tarfile.open(tmp_path / name, f"w:{name[6:]}") as tar:
            info = tarfile.TarInfo("a.png")
            info.size = len(noise)
            tar.addfile(info, io.BytesIO(noise))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"is damaged|cut off"), opened(tmp_path / name, "") as members:
        extract(members[0], tmp_path / "out")


def test_a_damaged_byte_in_a_zip_is_noticed(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", ["a.png"])
    file.write_bytes(file.read_bytes().replace(b"xxx", b"xyx"))
    with pytest.raises(UserError, match="damaged"), opened(file, "") as members:
        extract(members[0], tmp_path / "out")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "a.tar", *(member(f"{number}.png") for number in range(5)))
    assert len(paths(file)) == 5
    damaged = bytearray(file.read_bytes())
    damaged[2 * 1024 : 2 * 1024 + 20] = b"?" * 20  # a member is a block of header and one of content
    file.write_bytes(damaged)
    with pytest.raises(UserError, match="after 2 members comes neither another one nor the end"):
        paths(file)


def test_backslashes_of_windows_are_separators(tmp_path: Path) -> None:
    assert paths(zip_of(tmp_path / "a.zip", ["Set5\\HR\\a.png"])) == ["Set5/HR/a.png"]
