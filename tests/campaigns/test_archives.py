"""Damaged archives and arrays: what is unpacked or read is whole, the rest is a message, and nothing is written elsewhere."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from preparation.catalog import SETS, Part
from preparation.download import unpack

from sr_nas.errors import UserError
from sr_nas.registry import LABELLED
from tests.campaigns.machinery import OK, Campaign
from tests.campaigns.test_images import GENERAL

pytestmark = pytest.mark.campaign

NAMES = ("in/a.png", "in/b.png", "in/../../up.png", "/in/top.png", "other/c.png")
PART = Part(SETS["set5"][0].archive, "in", "out/HR", 2, None)


def archived(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in NAMES:
                archive.writestr(name, f"content of {name}" * 20)
    else:
        with tarfile.open(fileobj=stream, mode=f"w:{kind}") as tar:
            for name in NAMES:
                info = tarfile.TarInfo(name)
                info.size = len(content := f"content of {name}".encode() * 20)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("in/link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "../../up.png"
            tar.addfile(link)
    return stream.getvalue()


def read_npz(file: Path) -> int:
    return len(LABELLED.get("npz")("train", dataroot=str(file)))


def read_pickle(file: Path) -> int:
    return len(LABELLED.get("imagenet16")("test", dataroot=str(file.parent)))


def stored() -> bytes:
    pixels, labels = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    np.savez_compressed(
        stream := io.BytesIO(), x_train=pixels, x_test=pixels, y_train=labels, y_test=labels, classes=np.array(["a", "b"])
    )
    return stream.getvalue()


ARRAYS: dict[str, tuple[bytes, Callable[[Path], int]]] = {
    "images.npz": (stored(), read_npz),
    "val_data": (pickle.dumps({"data": np.zeros((9, 768), np.uint8), "labels": list(range(1, 10))}, 2), read_pickle),
}


def damaged(data: bytes, random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 2))):
        with suppress(ValueError, IndexError):  # nothing is left to damage
            data = bytes(random.choice(GENERAL)(bytearray(data), random))
    return data


def tried(count: int, file: Path, data: bytes, seed: str, read: Callable[[Path], object]) -> None:
    """Damage a file and read it, so many times; print how often it was read and refused."""
    counts, random = Counter[str](), Random(seed)
    for _ in range(count):
        file.write_bytes(damaged(data, random))
        message = ""
        try:
            read(file)
        except (UserError, FileExistsError) as error:
            message = str(error)
        assert not message or file.name in message or "out/HR" in message, message
        counts["refused" if message else "read"] += 1
    print(f"{counts['read']} {counts['refused']}")


def run(campaign: Campaign, file: Path, data: bytes, read: Callable[[Path], object]) -> None:
    count, seed = campaign.count(100), f"{campaign.seed} {file.name}"
    outcome = campaign.call(partial(tried, count, file, data, seed, read), seconds=600, memory=1 << 30)
    assert outcome.verdict == OK, outcome.text
    whole, refused = map(int, outcome.text.split()[-2:])
    campaign.outcomes.update({"read": whole, "refused": refused})


@pytest.mark.parametrize("kind", ["zip", "", "gz", "xz", "bz2"])
def test_archives(kind: str, campaign: Campaign, tmp_path: Path) -> None:
    root = tmp_path / "work" / "root"

    def read(file: Path) -> None:
        try:
            unpack(file, PART, root)
            assert sorted(path.name for path in (root / "out" / "HR").iterdir()) == ["a.png", "b.png"]
        finally:
            written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
            expected = {f"work/{file.name}", *(f"work/root/out/HR/{name}.png" for name in "ab")}
            assert written <= expected and len(written) in (1, 3), written
            for path in root.rglob("*.png"):
                path.unlink()

    root.mkdir(parents=True)
    run(campaign, tmp_path / "work" / f"archive.{kind or 'tar'}", archived(kind), read)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str, campaign: Campaign, tmp_path: Path) -> None:
    data, read = ARRAYS[name]
    run(campaign, tmp_path / name, data, read)
