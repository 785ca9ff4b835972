"""True accuracies of NAS-Bench-201's networks, from the table inside the package or from the benchmark's official files."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_nas.classification.nasbench201 import ARCH, NASBENCH201_OPERATIONS, architecture_string
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype

DATA_SETS = ("cifar10", "cifar100", "imagenet16")
FILE = "nasbench201.npz"

Accuracies = dict[str, dict[str, float]]
"""data set -> ``valid`` and ``test``, top-1 in percent."""

# Data set -> (its official name, metric) of validation and of test. What the bundled table has for validation on CIFAR-100 and
# ImageNet16-120 is called "valtest" there: on all held-out images, of which "test" are a half.
QUERIES = {
    "cifar10": (("cifar10-valid", "valid-accuracy"), ("cifar10", "test-accuracy")),
    "cifar100": (("cifar100", "valtest-accuracy"), ("cifar100", "test-accuracy")),
    "imagenet16": (("ImageNet16-120", "valtest-accuracy"), ("ImageNet16-120", "test-accuracy")),
}
OFFICIAL = (
    "the folder NATS-tss-v1_0-3ffb9-simple, the file NATS-tss-v1_0-3ffb9.pickle.pbz2 or the file NAS-Bench-201-v1_1-096897.pth"
)


@cache
def table() -> NDArray[np.float32]:
    """Return the accuracies of all networks in the order of :func:`place`, [15625, 3 data sets, (valid, test)], in percent."""
    with as_file(files("sr_nas.classification") / FILE) as path, np.load(path) as stored:
        return stored["accuracies"]


def place(names: Sequence[str]) -> int:
    """Return a network's row in the table: its six operations as digits to base 5, the first edge being the most significant."""
    return int("".join(str(NASBENCH201_OPERATIONS.index(name)) for name in names), 5)


def true_accuracy(genotype: Genotype) -> Accuracies | None:
    """Return the accuracies after 200 epochs, means over seeds, or ``None`` for a network that is not of NAS-Bench-201.

    The benchmark's networks have 16 channels and 5 cells a stage; a search may run on a smaller supernet of the same cells.
    """
    if genotype.arch != ARCH:
        return None
    rows = table()[place(genotype.names)]
    return {
        name: {"valid": round(float(valid), 4), "test": round(float(test), 4)}
        for name, (valid, test) in zip(DATA_SETS, rows, strict=True)
    }


def official_accuracy(genotype: Genotype, path: Path) -> Accuracies:
    """Return what :func:`true_accuracy` does, from an official file of NATS-Bench (Dong et al., TPAMI 2021) or NAS-Bench-201.

    These files are pickles, which their readers run: open none of unknown origin.

    ``path`` is one of :data:`OFFICIAL`. The folder is read network by network; each of the files takes minutes and gigabytes.

    Raises:
        UserError: another genotype, a reader that is not installed, a path that cannot be read, or a network that it lacks.
    """
    if genotype.arch != ARCH:
        raise UserError(f"{path} knows networks of {ARCH}, and this is one of {genotype.arch}.")
    text, api = architecture_string(genotype), open_official(path)

    def mean(index: int, data_set: str, metric: str) -> float:
        return round(float(api.get_more_info(index, data_set, hp="200", is_random=False)[metric]), 4)

    try:
        index = api.query_index_by_arch(text)
        if index < 0:
            raise KeyError("no such network")
        return {name: {"valid": mean(index, *valid), "test": mean(index, *test)} for name, (valid, test) in QUERIES.items()}
    except Exception as error:  # the readers raise anything where a file lacks a network or is cut off
        raise UserError(f"{path} tells no accuracies of {text} ({type(error).__name__}: {error}).") from error


@lru_cache(maxsize=1)
def open_official(path: Path) -> Any:
    """Open an official file or folder by the reader that it was made for; errors as in :func:`official_accuracy`."""
    if not path.exists():
        raise UserError(f"--official: {path} does not exist. Expected: {OFFICIAL}.")
    of_nats = path.is_dir() or path.name.endswith(".pbz2")
    if not of_nats and path.suffix != ".pth":
        raise UserError(f"--official: {path} is of another kind. Expected: {OFFICIAL}.")
    module = "nats_bench" if of_nats else "nas_201_api"
    try:
        reader = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"{module} is not installed: pip install 'sr_nas[nasbench]'.") from error
    try:
        if of_nats:
            return reader.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
        return _open_nasbench201(reader, path)
    except Exception as error:  # as above
        raise UserError(
            f"--official: {path} cannot be read by {module} ({type(error).__name__}: {error}). Expected: {OFFICIAL}."
        ) from error


def _open_nasbench201(reader: Any, path: Path) -> Any:
    # The reader is older than the restriction of torch.load to tensors, and the official file holds NumPy's numbers.
    variable = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable, "0")
    os.environ[variable] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"Environment variable {variable}")
            return reader.NASBench201API(str(path), verbose=False)
    finally:
        os.environ[variable] = before
