"""CIFAR's files, from an archive at an address or from a copy, to the folder that option files name."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from sr_nas.errors import UserError
from sr_nas.preparation import catalog as addresses
from sr_nas.preparation.adopt_files import adopt_files
from sr_nas.preparation.download import is_there
from sr_nas.registry import LABELLED
from tests.jobs.processes import run
from tests.preparation.images import contents
from tests.preparation.server import Site, serving
from tests.preparation.test_sets import packed

INSIDE = "cifar-100-python"


def make_cifar100(folder: Path) -> dict[str, bytes]:
    """A set of four images in CIFAR's form, beside which the archive has a file that nobody needs."""
    generator = np.random.default_rng(0)
    files = {"file.txt~": b"", "meta": pickle.dumps({"fine_label_names": ["apple", "bee"]}, 2)}
    for part in ("test", "train"):
        pixels = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        files[part] = pickle.dumps({"data": pixels, "fine_labels": [0, 1, 1, 0]}, 2)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: data for name, data in files.items() if name != "file.txt~"}


def part_of(files: Mapping[str, bytes], archive: addresses.Archive) -> addresses.Part:
    """CIFAR-100's part, with the checksums of other files."""
    digests = tuple((name, hashlib.md5(data).hexdigest()) for name, data in files.items())
    return addresses.Part(archive, INSIDE, f"CIFAR-100/{INSIDE}", len(digests), None, files=digests)


def test_cifar_is_fetched_checked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    files = make_cifar100(tmp_path / "made")
    root = tmp_path / "datasets"
    with serving(Site(packed(tmp_path / "made", INSIDE))) as site:
        digest = hashlib.sha256(site.content).hexdigest()
        archive = addresses.Archive("cifar-100-python.tar.gz", site.url, len(site.content), f"sha256:{digest}")
        monkeypatch.setitem(addresses.SETS, "cifar100", (part_of(files, archive),))
        assert f"{root}/CIFAR-100/{INSIDE}: 3 files written" in run("prepare_data", "cifar100", "--root", root)
        assert len(site.asked) == 1
        assert "there already" in run("prepare_data", "cifar100", "--root", root)
        assert len(site.asked) == 1
    assert contents(root / "CIFAR-100") == {f"{INSIDE}/{name}": data for name, data in files.items()}
    found = LABELLED.get("cifar100")("train", dataroot=str(root / "CIFAR-100"))
    assert (found.classes, found.labels) == (("apple", "bee"), [0, 1, 1, 0])
    (root / "CIFAR-100" / INSIDE / "train").write_bytes(b"mine")
    assert "KEPT THOUGH DIFFERENT (train)" in run("prepare_data", "cifar100", "--root", root, code=1)
    assert (root / "CIFAR-100" / INSIDE / "train").read_bytes() == b"mine"


@pytest.mark.parametrize("as_archive", [False, True])
def test_a_copy_is_taken_as_archive_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_archive: bool) -> None:
    files = make_cifar100(tmp_path / "mine/some/where")
    source = tmp_path / "mine"
    if as_archive:
        source = tmp_path / "mine.tar"
        source.write_bytes(packed(tmp_path / "mine", "top"))
    part = part_of(files, addresses.SETS["cifar100"][0].archive)
    monkeypatch.setitem(addresses.SETS, "cifar100", (part,))
    words = ["prepare_data", "cifar100", "--from", source, "--root", tmp_path / "root"]
    assert "3 files written" in run(*words)
    assert "0 files written, 3 were there" in run(*words)
    assert contents(tmp_path / "root") == {f"CIFAR-100/{INSIDE}/{name}": data for name, data in files.items()}


def test_other_files_of_the_same_names_are_not_taken(tmp_path: Path) -> None:
    make_cifar100(tmp_path / "mine")
    with pytest.raises(UserError, match="MD5 of meta, test, train differs"):
        adopt_files(tmp_path / "mine", addresses.SETS["cifar100"][0], tmp_path / "root")
    (tmp_path / "mine/meta").unlink()
    with pytest.raises(UserError, match="no folder with all of meta, test, train"):
        adopt_files(tmp_path / "mine", addresses.SETS["cifar100"][0], tmp_path / "root")
    assert contents(tmp_path / "root") == {}


def test_files_unpacked_without_their_folder_are_there(tmp_path: Path) -> None:
    files = make_cifar100(tmp_path / "CIFAR-100")
    part = part_of(files, addresses.SETS["cifar100"][0].archive)
    assert is_there(part, tmp_path)
    (tmp_path / "CIFAR-100/test").write_bytes(b"")
    assert not is_there(part, tmp_path)


def test_the_archive_may_be_put_there_by_hand(tmp_path: Path) -> None:
    """One that is not the published one is told of, not unpacked and not removed."""
    make_cifar100(tmp_path / "made")
    file = tmp_path / "root/archives/cifar-100-python.tar.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(packed(tmp_path / "made", INSIDE))
    printed = run("prepare_data", "cifar100", "--root", tmp_path / "root", code=1)
    assert "is not the published archive" in printed and "instead of 169,001,437" in printed
    assert file.is_file() and not (tmp_path / "root/CIFAR-100").exists()
