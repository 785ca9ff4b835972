"""Addresses, sizes and hashes of the published data sets, and which folder of an archive goes where. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        name: its file name on disk.
        url: its official address.
        size: bytes; ``None`` where it is not published.
        checksum: ``"sha256:..."`` or ``"md5:..."``.
    """

    name: str
    url: str
    size: int | None
    checksum: str


@dataclass(frozen=True)
class Part:
    """One folder of an archive: all its images, or the files that are listed.

    Attributes:
        archive: the archive it lies in.
        inside: path of the folder in the archive.
        folder: where it is unpacked, below the folder of all data sets.
        count: number of its images or files.
        scale: of LR images; ``None`` for HR.
        split: ``"train"`` or ``"valid"`` of DIV2K.
        files: (name, MD5) of each file, where it holds no images.
    """

    archive: Archive
    inside: str
    folder: str
    count: int
    scale: int | None
    split: str | None = None
    files: tuple[tuple[str, str], ...] = ()

    @property
    def contents(self) -> str:
        """What it holds, for messages: ``"files"`` or ``"images"``."""
        return "files" if self.files else "images"


DIV2K_ADDRESS = "https://data.vision.ee.ethz.ch/cvl/DIV2K"

# The page of the set gives neither sizes nor checksums; these are those by which TensorFlow Datasets verifies its downloads
# (tensorflow_datasets/datasets/div2k/checksums.tsv).
_DIV2K = {
    "DIV2K_train_HR": (3530603713, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
    "DIV2K_train_LR_bicubic_X2": (925390592, "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850"),
    "DIV2K_train_LR_bicubic_X3": (427847282, "ad5c8e5507e2765823d3c2c5bd0934842efcd487c5370604c224090898b3163a"),
    "DIV2K_train_LR_bicubic_X4": (246914039, "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a"),
    "DIV2K_valid_HR": (448993893, "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"),
    "DIV2K_valid_LR_bicubic_X2": (117763600, "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57"),
    "DIV2K_valid_LR_bicubic_X3": (54513392, "04b9a2ed3b4a0715d3924d3ae8514830c3328fac8d30512ce716d6f419e052a3"),
    "DIV2K_valid_LR_bicubic_X4": (31505881, "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553"),
}

# EDSR's archive of the benchmark sets, about 250 MB. Its page gives no checksum; this MD5 is the one by which torchSR verifies
# its download (torchsr/datasets/benchmarks.py).
BENCHMARK = Archive(
    "benchmark.tar", "https://cv.snu.ac.kr/research/EDSR/benchmark.tar", None, "md5:4ace41d33c2384b97e6b320cd0afd6ba"
)

# The page of CIFAR gives the MD5 of the archives; these SHA-256 are those by which Keras verifies its downloads
# (keras/src/datasets/cifar10.py and cifar100.py). The MD5 of the files inside are torchvision's (torchvision/datasets/cifar.py).
CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz"
_CIFAR10_FILES = (
    ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
    ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
    ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
    ("data_batch_4", "634d18415352ddfa80567beed471001a"),
    ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ("test_batch", "40351d587109b95175f43aff81a1287e"),
)
_CIFAR100_FILES = (
    ("meta", "7973b15100ade9c7d40fb424638fde48"),
    ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    ("train", "16019d7e3df5f24257cddd939b257f8d"),
)


def _div2k() -> tuple[Part, ...]:
    parts = []
    for stem, (size, digest) in _DIV2K.items():
        archive = Archive(f"{stem}.zip", f"{DIV2K_ADDRESS}/{stem}.zip", size, f"sha256:{digest}")
        inside, _, scale = stem.partition("_X")
        inside += f"/X{scale}" if scale else ""
        split = stem.split("_")[1]
        parts.append(
            Part(archive, inside, f"DIV2K/{inside}", {"train": 800, "valid": 100}[split], int(scale) if scale else None, split)
        )
    return tuple(parts)


def _benchmark(name: str, count: int) -> tuple[Part, ...]:
    hr = Part(BENCHMARK, f"benchmark/{name}/HR", f"{name}/HR", count, None)
    lr = [Part(BENCHMARK, f"benchmark/{name}/LR_bicubic/X{s}", f"{name}/LR_matlab/x{s}", count, s) for s in (2, 3, 4)]
    return (hr, *lr)


def _cifar(kind: str, size: int, digest: str, inside: str, files: tuple[tuple[str, str], ...]) -> tuple[Part, ...]:
    name = f"cifar-{kind}-python.tar.gz"
    archive = Archive(name, f"{CIFAR_ADDRESS}/{name}", size, f"sha256:{digest}")
    return (Part(archive, inside, f"CIFAR-{kind}/{inside}", len(files), None, files=files),)


_CIFAR10_DIGEST = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_CIFAR100_DIGEST = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"

SETS = {
    "div2k": _div2k(),
    "set5": _benchmark("Set5", 5),
    "set14": _benchmark("Set14", 14),
    "b100": _benchmark("B100", 100),
    "urban100": _benchmark("Urban100", 100),
    "cifar10": _cifar("10", 170498071, _CIFAR10_DIGEST, "cifar-10-batches-py", _CIFAR10_FILES),
    "cifar100": _cifar("100", 169001437, _CIFAR100_DIGEST, "cifar-100-python", _CIFAR100_FILES),
}
"""Name on the command line -> parts of the set."""
