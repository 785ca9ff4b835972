"""Whatever a user calls a model: an exported file of any kind, a run folder, or released weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.contracts import Network, SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.export.graph_file import ExecutedNetwork, load_onnx, load_program
from sr_nas.export.network_file import load_network, read_metadata, read_tensors
from sr_nas.export.pth_file import load_pth, read_pth_metadata
from sr_nas.export.released import WRAPPERS, bare_tensors, load_released, wrapper_of
from sr_nas.genotype import read_genotype
from sr_nas.runs.checkpoint import load_tensors

BEST, LAST = "best.safetensors", "last.safetensors"


def load_model(source: str | Path, arch: str | None = None, genotype: Any = None) -> SRNetwork:
    """Return the network of a model, in eval mode, on the CPU.

    Args:
        source: an exported file (``.safetensors``, ``.pth``, ``.onnx`` or ``.pt2``); the folder of a training (its best
            network is taken); or a ``.pth`` or ``.pt`` file of released weights. ONNX Runtime runs an ``.onnx``
            (:class:`~sr_nas.export.graph_file.ExecutedNetwork`), and a ``.pt2`` may run code of its author.
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


# MERGED sr_nas.export.model: The weights that a training starts from.


def starting_tensors(path: Path, key: str | None = None) -> tuple[Mapping[str, Tensor], str]:
    """Read the tensors of an exported network, of what a search left, or of a ``.pth`` or ``.pt`` as BasicSR writes it.

    Args:
        path: the file.
        key: which of several networks in a ``.pth``; by default ``params_ema`` before ``params``.

    Returns:
        The tensors by name, and where several might be meant, words on which were taken.

    Raises:
        UserError: it cannot be read, or holds no such tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path), ""
    if path.suffix not in (".pth", ".pt"):
        raise UserError(f"path.pretrain_network_g: {path} is no .safetensors, .pth or .pt file.")
    loaded = load_tensors(path)
    tensors, taken = bare_tensors(loaded, path, key), key or wrapper_of(loaded)
    others = [name for name in WRAPPERS if name != taken and isinstance(loaded.get(name), Mapping)]
    return tensors, f" ({taken} of it; it also has {listing(others)})" if taken and others else ""


def start_from(network: Network, path: str, found: Mapping[str, Tensor], strict: bool) -> tuple[list[str], int]:
    """Give a network the weights of a file.

    Args:
        network: changed in place.
        path: the file, for messages.
        found: its tensors.
        strict: refuse a file that lacks a tensor, or has one of another shape or name.

    Returns:
        The names of the network's tensors that were not found and stay as they are, and how many it has.

    Raises:
        UserError: strict and not all fit, or none fits at all.
    """
    for name, tensor in found.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"path.pretrain_network_g: {name} of {path} is not finite: these weights are of a diverged training.")
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    misfits = [name for name in dict.fromkeys((*own, *found)) if name not in fitting]
    if (strict and misfits) or not fitting:
        advice = " Set path.strict_load_g to false to take those that fit." if fitting else ""
        raise UserError(
            f"path.pretrain_network_g: {path} does not fit the network; missing or of another shape: "
            f"{listing(misfits, 5)}.{_another_scale(network, path)}{advice}"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting], len(own)


def _another_scale(network: Network, path: str) -> str:
    if not isinstance(network, SRNetwork):
        return ""
    scale = read_metadata(path).get("scale", "") if path.endswith(".safetensors") else ""
    return f" The file is of scale {scale} and the network of {network.scale}." if scale not in ("", str(network.scale)) else ""
