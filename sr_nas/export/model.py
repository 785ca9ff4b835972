"""Whatever a user calls a model: an exported file of any kind, a run folder, or released weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.executed import ExecutedNetwork
from sr_nas.export.network_file import load_network, read_metadata
from sr_nas.export.onnx_file import load_onnx
from sr_nas.export.program_file import load_program
from sr_nas.export.pth_file import load_pth, read_pth_metadata
from sr_nas.export.released import load_released
from sr_nas.genotype import read_genotype

BEST, LAST = "best.safetensors", "last.safetensors"


def load_model(source: str | Path, arch: str | None = None, genotype: Any = None) -> SRNetwork:
    """Return the network of a model, in eval mode, on the CPU.

    Args:
        source: an exported file (``.safetensors``, ``.pth``, ``.onnx`` or ``.pt2``); the folder of a training (its best
            network is taken); or a ``.pth`` or ``.pt`` file of released weights. ONNX Runtime runs an ``.onnx``
            (:class:`~sr_nas.export.executed.ExecutedNetwork`), and a ``.pt2`` may run code of its author.
        arch: architecture of released weights; the others name their own.
        genotype: of released weights that do not tell it: names, a genotype file or a run folder.

    Raises:
        UserError: none of these, released weights without ``arch``, or a package that the file needs is missing.
    """
    path = Path(source)
    for option, given in (("--arch", arch), ("--genotype", genotype)):
        if given is not None and path.suffix not in (".pth", ".pt"):
            raise UserError(f"{option} is for released weights (.pth, .pt); {path} describes itself.")
    if path.is_dir():
        return load_network(trained_file(path))
    if path.suffix in (".pth", ".pt"):
        return load_pth(path) if arch is None else load_released(path, arch, read_genotype(genotype))
    if path.suffix == ".onnx":
        return load_onnx(path)
    return load_program(path) if path.suffix == ".pt2" else load_network(path)


def model_metadata(source: str | Path) -> dict[str, str]:
    """Return what a model says of itself (:func:`~sr_nas.export.network_file.described`); nothing for released weights.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        return read_metadata(trained_file(path))
    if path.suffix in (".pth", ".pt"):
        return read_pth_metadata(path) or {}
    loaded = load_model(path) if path.suffix in (".onnx", ".pt2") else None
    return loaded.metadata if isinstance(loaded, ExecutedNetwork) else read_metadata(path)


def trained_file(run: Path) -> Path:
    """Return the best network of a training's folder, or the last where none was validated.

    Raises:
        UserError: the folder holds neither.
    """
    for name in (BEST, LAST):
        if (run / name).is_file():
            return run / name
    if (run / "genotype.json").is_file():
        raise UserError(f"{run} is a search: it found a genotype, and no trained network. Train it first with tools/train.py.")
    raise UserError(f"{run} holds no trained network ({BEST} or {LAST}).")
