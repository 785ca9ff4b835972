"""True accuracies from the official files of NATS-Bench (Dong et al., TPAMI 2021) and NAS-Bench-201, by their own readers."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sr_nas.classification.nasbench201 import architecture_string
from sr_nas.classification.nasbench201_table import ARCH, Accuracies
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype

EPOCHS = "200"
# Of each data set: what it is called there for validation and for test, and which accuracies are meant. The bundled table has for
# validation on CIFAR-100 and ImageNet16-120 what is called "valtest" there: on all test images, of which "test" are a half.
QUERIES = {
    "cifar10": (("cifar10-valid", "valid-accuracy"), ("cifar10", "test-accuracy")),
    "cifar100": (("cifar100", "valtest-accuracy"), ("cifar100", "test-accuracy")),
    "imagenet16": (("ImageNet16-120", "valtest-accuracy"), ("ImageNet16-120", "test-accuracy")),
}
KINDS = (
    "the folder NATS-tss-v1_0-3ffb9-simple, the file NATS-tss-v1_0-3ffb9.pickle.pbz2 or the file NAS-Bench-201-v1_1-096897.pth"
)


def official_accuracy(genotype: Genotype, path: Path) -> Accuracies:
    """Return what :func:`sr_nas.classification.nasbench201_table.true_accuracy` does, from an official file.

    The means over all trainings of 200 epochs that the file has of the network, rounded to four digits. The files are pickles,
    which their readers run: open none of unknown origin.

    Args:
        genotype: of a network of NAS-Bench-201.
        path: one of :data:`KINDS`. The folder is read by what is asked for; each of the files takes minutes and gigabytes.

    Raises:
        UserError: another genotype, a reader that is not installed, a path that cannot be read, or a network that it lacks.
    """
    if genotype.arch != ARCH:
        raise UserError(f"{path} knows networks of {ARCH}, and this is one of {genotype.arch}.")
    text = architecture_string(genotype)
    api = open_official(path)
    try:
        index = api.query_index_by_arch(text)
        if index < 0:
            raise KeyError("no such network")
        return {
            name: {"valid": _mean(api, index, *valid), "test": _mean(api, index, *test)}
            for name, (valid, test) in QUERIES.items()
        }
    except Exception as error:  # readers raise whatever they meet; a file may lack a network or be cut off
        raise UserError(f"{path} tells no accuracies of {text} ({type(error).__name__}: {error}).") from error


def _mean(api: Any, index: int, data_set: str, metric: str) -> float:
    found = api.get_more_info(index, data_set, hp=EPOCHS, is_random=False)
    return round(float(found[metric]), 4)


@lru_cache(maxsize=1)
def open_official(path: Path) -> Any:
    """Open an official file or folder by the reader that it was made for.

    Raises:
        UserError: it does not exist, is of another kind or cannot be read, or its reader is not installed.
    """
    if not path.exists():
        raise UserError(f"--official: {path} does not exist. Expected: {KINDS}.")
    of_nats = path.is_dir() or path.name.endswith(".pbz2")
    if not of_nats and path.suffix != ".pth":
        raise UserError(f"--official: {path} is of another kind. Expected: {KINDS}.")
    reader = _reader("nats_bench" if of_nats else "nas_201_api")
    try:
        if of_nats:
            return reader.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
        with _whole_pickles():
            return reader.NASBench201API(str(path), verbose=False)
    except Exception as error:  # as above
        raise UserError(
            f"--official: {path} cannot be read by {reader.__name__} ({type(error).__name__}: {error}). Expected: {KINDS}."
        ) from error


def _reader(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"{module} is not installed: pip install 'sr_nas[nasbench]'.") from error


@contextmanager
def _whole_pickles() -> Iterator[None]:
    """The reader of NAS-Bench-201 is older than the restriction of ``torch.load`` to tensors; its files hold NumPy's numbers."""
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"Environment variable {name}")
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
