"""Downloads over lines that break and from servers that lie, and archives unpacked into the project's layout."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from preparation.catalog import DIV2K_ADDRESS, SETS, Archive, Part
from preparation.download import fetch_archive, is_there, parts_of, unpack

from sr_nas.data.sources import benchmark_set
from sr_nas.errors import UserError
from sr_nas.images.resize import downscale
from sr_nas.registry import LABELLED
from tests.preparation.images import NAMES, contents, make_set5, packed, run_tool, save
from tests.preparation.server import Site, serving

CONTENT = bytes(range(256)) * 20_000  # 5 MB, more than one block


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture(autouse=True)
def no_proxy_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(CONTENT)) as running:
        yield running


def fetch(site: Site, folder: Path, size: int | None = len(CONTENT), checksum: str = sha256(CONTENT), url: str = "") -> Path:
    archive = Archive("set.zip", url or site.url, size, checksum)
    return fetch_archive(archive, folder, lambda done, total: None)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_fetched_whole_and_nothing_else_stays(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    archive = Archive("set.zip", site.url, None, sha256(CONTENT))
    file = fetch_archive(archive, tmp_path / "new", lambda done, total: seen.append((done, total)))
    assert file.read_bytes() == CONTENT and seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    assert names(tmp_path / "new") == ["set.zip"]
    assert fetch(site, tmp_path / "new") == file
    assert len(site.ranges_asked) == 1


def test_a_connection_that_drops_is_continued(site: Site, tmp_path: Path) -> None:
    site.drops = [2 << 20, 1 << 20, 0, None]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges_asked == [None, *[f"bytes={start << 20}-" for start in (2, 3, 3)]]


def test_a_later_run_continues_where_an_earlier_one_gave_up(site: Site, tmp_path: Path) -> None:
    site.drops = [3 << 20, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match="IncompleteRead"):
        fetch(site, tmp_path)
    assert names(tmp_path) == ["set.zip.part"] and len(site.ranges_asked) == 6
    site.ranges_asked.clear()
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges_asked == [f"bytes={3 << 20}-"]
    assert names(tmp_path) == ["set.zip"]


def test_without_ranges_it_begins_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [2 << 20, None]
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_without_ranges_a_line_that_always_breaks_is_given_up(site: Site, tmp_path: Path) -> None:
    site.ranges, site.drops = False, [2 << 20, 1 << 20] * 25
    with pytest.raises(UserError, match="IncompleteRead"):
        fetch(site, tmp_path)
    assert len(site.ranges_asked) == 6


def test_a_file_that_changed_meanwhile_is_downloaded_from_its_beginning(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[::-1][: 2 << 20])
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges_asked == [f"bytes={2 << 20}-", None]


@pytest.mark.parametrize("content", [CONTENT[:9], CONTENT + b"more"])
def test_a_file_of_another_size_is_not_downloaded(site: Site, tmp_path: Path, content: bytes) -> None:
    site.content = content
    with pytest.raises(UserError, match=r"has [\d,]+ bytes, the published archive 5,120,000"):
        fetch(site, tmp_path)
    assert names(tmp_path) == [] and len(site.ranges_asked) == 1


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_no_more_is_taken_than_an_archive_may_have(
    site: Site, tmp_path: Path, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preparation.download.LARGEST", 1 << 20)
    site.content, site.lengths = CONTENT + b"more", False
    with pytest.raises(UserError, match=r"sends more than the (5,120,000|1,048,576) bytes"):
        fetch(site, tmp_path, size=size)
    assert contents(tmp_path) == {"set.zip.part": b""} and len(site.ranges_asked) == 1


def test_a_server_leads_to_other_servers_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    with serving(Site(b"", location=site.url)) as leading:
        assert fetch(leading, tmp_path / "sets").read_bytes() == CONTENT
        (tmp_path / "sets" / "set.zip").unlink()
        for scheme in ("file", "ftp"):
            leading.location = f"{scheme}://{tmp_path}/secret"
            with pytest.raises(UserError, match=f"(?s)No connection adapters were found for '{scheme}:.*put it at"):
                fetch(leading, tmp_path / "sets")
    assert names(tmp_path / "sets") == []


def test_a_file_of_another_content_is_not_taken_nor_kept(site: Site, tmp_path: Path) -> None:
    for checksum in (sha256(b"other"), f"md5:{hashlib.md5(b'other').hexdigest()}"):
        with pytest.raises(UserError, match="is not the published archive"):
            fetch(site, tmp_path, checksum=checksum)
        assert names(tmp_path) == []
    assert len(site.ranges_asked) == 2


def test_a_part_that_is_whole_or_too_long(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert fetch(site, tmp_path, size=None).read_bytes() == CONTENT
    assert site.ranges_asked == ["bytes=5120000-"]
    (tmp_path / "set.zip").unlink()
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_missing_page_says_what_to_do_by_hand(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    with pytest.raises(UserError) as error:
        fetch(site, tmp_path)
    for words in ("404 Not Found", site.url, str(tmp_path / "set.zip"), "5 MB"):
        assert words in str(error.value)
    assert len(site.ranges_asked) == 1


def test_a_login_page_costs_nothing_of_what_was_fetched(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[: 3 << 20])
    site.kind, site.ranges = "text/html; charset=utf-8", False
    with pytest.raises(UserError, match="a web page instead of the file"):
        fetch(site, tmp_path, size=None)
    assert (tmp_path / "set.zip.part").read_bytes() == CONTENT[: 3 << 20]


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429, 500]
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_without_a_network_it_says_what_to_do_by_hand(site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/set.zip"
    with pytest.raises(UserError, match=r"refused(.|\n)*put it at"):
        fetch(site, tmp_path, url=url)


def test_a_full_disk_is_noticed_before_the_download(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="needs 5,120,000 bytes"):
        fetch(site, tmp_path)


def test_an_archive_that_was_put_there_by_hand_is_verified_and_never_removed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match="is not the published archive"):
        fetch(site, tmp_path)
    assert contents(tmp_path) == {"set.zip": b"mine"} and site.ranges_asked == []


def test_the_addresses_of_div2k() -> None:
    """Sizes in all: 800 and 100 images, HR and three scales, 5.8 GB; every archive has its SHA-256."""
    parts = SETS["div2k"]
    assert [part.folder for part in parts if part.split == "train"] == [
        "DIV2K/DIV2K_train_HR",
        *[f"DIV2K/DIV2K_train_LR_bicubic/X{scale}" for scale in (2, 3, 4)],
    ]
    assert sum(part.archive.size or 0 for part in parts) == 5_783_532_392
    for part in parts:
        assert part.archive.url == f"{DIV2K_ADDRESS}/{part.archive.name}"
        assert len(part.archive.checksum) == len("sha256:") + 64


def test_scales_and_splits_choose_parts_and_several_sets_share_an_archive() -> None:
    assert [part.folder for part in parts_of(["div2k", "set5"], [3], ["valid"])] == [
        "DIV2K/DIV2K_valid_HR",
        "DIV2K/DIV2K_valid_LR_bicubic/X3",
        "Set5/HR",
        "Set5/LR_matlab/x3",
    ]
    assert len({part.archive for part in parts_of(["set5", "set14", "b100", "urban100"], [2, 3, 4], [])}) == 1


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """EDSR's archive, of Set5 alone, with a file that macOS adds."""
    made = make_set5(tmp_path / "made")
    save(made / "HR" / "._baby.png")
    (tmp_path / "benchmark.tar").write_bytes(packed(made, "benchmark/Set5"))
    return tmp_path / "benchmark.tar"


def test_a_published_archive_becomes_the_projects_layout(benchmark: Path, tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    assert [unpack(benchmark, part, root) for part in SETS["set5"]] == [(5, 0)] * 4
    assert all(is_there(part, root) for part in SETS["set5"])
    assert names(root) == ["Set5"] and names(root / "Set5/HR") == [f"{name}.png" for name in NAMES]
    for scale in (2, 3, 4):
        _, pairs, _ = benchmark_set(root / "Set5", scale)
        assert pairs.names == list(NAMES)
        for index in range(5):
            np.testing.assert_array_equal(pairs.lr(index), downscale(pairs.hr(index), scale))


def test_a_missing_image_comes_back_and_an_edited_one_stays(benchmark: Path, tmp_path: Path) -> None:
    part = SETS["set5"][0]
    unpack(benchmark, part, tmp_path)
    edited = save(tmp_path / "Set5/HR/baby.png", seed=99).read_bytes()
    (tmp_path / "Set5/HR/bird.png").unlink()
    assert not is_there(part, tmp_path)
    assert unpack(benchmark, part, tmp_path) == (1, 4)
    assert (tmp_path / "Set5/HR/baby.png").read_bytes() == edited


def test_an_archive_of_another_content_lists_what_it_holds(benchmark: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 0 images in 'benchmark/Set14/HR', expected 14(.|\n)*benchmark/Set5/HR"):
        unpack(benchmark, SETS["set14"][0], tmp_path)
    assert not (tmp_path / "Set14/HR").exists()


def one_image(inside: str = "in") -> Part:
    return Part(SETS["set5"][0].archive, inside, "out/HR", 1, None)


DANGEROUS = ["in/../../up.png", "/in/top.png", "in/..\\..\\up.png", "C:/in/up.png", "in/sub/../../../up.png"]


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("in/fine.png", b"xxx")
            archive.writestr(name, b"evil")
    else:
        with tarfile.open(file, "w") as tar:
            for path, data in (("in/fine.png", b"xxx"), (name, b"evil")):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    unpack(file, one_image(), tmp_path / "root")
    assert contents(tmp_path / "root") == {"out/HR/fine.png": b"xxx"}
    assert names(tmp_path) == [file.name, "root"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_images(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("in/a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError, match="holds 0 images"):
        unpack(tmp_path / "a.tar", one_image(), tmp_path)


def test_an_archive_that_states_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bomb.tar", "w") as tar:
        info = tarfile.TarInfo("in/a.png")
        info.size = 2**60
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("in/a.png", b"x" * 99)
    head = (tmp_path / "bomb.zip").read_bytes()
    (tmp_path / "bomb.zip").write_bytes(head.replace(struct.pack("<I", 99), struct.pack("<I", 2**32 - 2)))
    for name in ("bomb.tar", "bomb.zip"):
        with pytest.raises(UserError, match=r"needs [0-9,]+ bytes, the disk|is no sound archive"):
            unpack(tmp_path / name, one_image(), tmp_path / "root")
        assert not (tmp_path / "root").exists() or contents(tmp_path / "root") == {}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.txt"])
def test_a_damaged_archive_is_reported_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    file, noise = tmp_path / name, np.random.default_rng(0).bytes(100_000)
    if name == "a.zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("in/a.png", noise)
        file.write_bytes(file.read_bytes().replace(noise[5000:5009], b"otherwise"))
    elif name == "a.txt":
        file.write_bytes(noise)
    else:
        with tarfile.open(file, f"w:{name[6:]}") as tar:
            info = tarfile.TarInfo("in/a.png")
            info.size = len(noise)
            tar.addfile(info, io.BytesIO(noise))
        file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(UserError, match="is no sound archive"):
        unpack(file, one_image(), tmp_path / "root")
    assert not (tmp_path / "root").exists() or contents(tmp_path / "root") == {}


INSIDE = "cifar-100-python"


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A set of four images in CIFAR's form in ``made``, with a file nobody needs; the catalog has its checksums."""
    files = {"file.txt~": b"", "meta": pickle.dumps({"fine_label_names": ["apple", "bee"]}, 2)}
    for split in ("test", "train"):
        pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
        files[split] = pickle.dumps({"data": pixels, "fine_labels": [0, 1, 1, 0]}, 2)
    (tmp_path / "made").mkdir()
    for name, data in files.items():
        (tmp_path / "made" / name).write_bytes(data)
    files.pop("file.txt~")
    digests = tuple((name, hashlib.md5(data).hexdigest()) for name, data in files.items())
    monkeypatch.setitem(SETS, "cifar100", (replace(SETS["cifar100"][0], files=digests),))
    return files


def test_cifar_is_fetched_checked_and_read(tmp_path: Path, cifar: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "datasets"
    with serving(Site(packed(tmp_path / "made", INSIDE))) as site:
        archive = Archive("cifar-100-python.tar.gz", site.url, len(site.content), sha256(site.content))
        monkeypatch.setitem(SETS, "cifar100", (replace(SETS["cifar100"][0], archive=archive),))
        assert f"{root}/CIFAR-100/{INSIDE}: 3 files written" in run_tool("cifar100", "--root", root)
        assert "there already" in run_tool("cifar100", "--root", root)
        assert len(site.ranges_asked) == 1
    assert contents(root / "CIFAR-100") == {f"{INSIDE}/{name}": data for name, data in cifar.items()}
    found = LABELLED.get("cifar100")("train", dataroot=str(root / "CIFAR-100"))
    assert (found.classes, found.labels) == (("apple", "bee"), [0, 1, 1, 0])
    (root / "CIFAR-100" / INSIDE / "train").write_bytes(b"mine")
    assert "train is not the published file" in run_tool("cifar100", "--root", root, code=1)
    assert (root / "CIFAR-100" / INSIDE / "train").read_bytes() == b"mine"


def test_files_unpacked_without_their_folder_are_there(tmp_path: Path, cifar: dict[str, bytes]) -> None:
    (tmp_path / "made").rename(tmp_path / "CIFAR-100")
    (part,) = SETS["cifar100"]
    assert is_there(part, tmp_path)
    (tmp_path / "CIFAR-100/test").unlink()
    assert not is_there(part, tmp_path)
