"""Whatever a user calls a model: an exported file, a run folder, or released weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import load_network
from sr_nas.export.released import load_released
from sr_nas.genotype import read_genotype

BEST, LAST = "best.safetensors", "last.safetensors"


def load_model(source: str | Path, arch: str | None = None, genotype: Any = None) -> SRNetwork:
    """Return the network of a model, in eval mode, on the CPU.

    Args:
        source: an exported ``.safetensors`` file; the folder of a training (its best network is taken); or a ``.pth`` or
            ``.pt`` file of released weights.
        arch: architecture of released weights; the other two name their own.
        genotype: of released weights that do not tell it: names, a genotype file or a run folder.

    Raises:
        UserError: none of these, or released weights without ``arch``.
    """
    path = Path(source)
    for option, given in (("--arch", arch), ("--genotype", genotype)):
        if given is not None and path.suffix not in (".pth", ".pt"):
            raise UserError(f"{option} is for released weights (.pth, .pt); {path} describes itself.")
    if path.is_dir():
        return load_network(trained_file(path))
    if path.suffix in (".pth", ".pt"):
        if arch is None:
            raise UserError(f"{path} does not say what network it holds: name it with --arch, for example --arch imdn.")
        return load_released(path, arch, read_genotype(genotype))
    return load_network(path)


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
