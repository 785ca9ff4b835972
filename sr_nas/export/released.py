"""Weights that others have released."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.export.released_dlsr import dlsr_from_released
from sr_nas.export.released_imdn import imdn_from_released
from sr_nas.export.rename import fill
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from sr_nas.registry import NETWORKS
from sr_nas.runs.checkpoint import load_tensors

WRAPPERS = ("params_ema", "params", "state_dict", "model")
CONVERTERS: dict[str, Callable[[Mapping[str, Tensor], Path, Any], SRNetwork]] = {
    DLSR.arch: dlsr_from_released,
    IMDN.arch: imdn_from_released,
}


def load_released(path: str | Path, arch: str, genotype: Any = None) -> SRNetwork:
    """Load a released ``.pth`` file into our network of the same architecture, in eval mode, on the CPU.

    The network takes and gives RGB in 0..1, whatever range its authors trained in. The tensors may lie bare, under
    ``params_ema``, ``params``, ``state_dict`` or ``model``, with or without ``module.`` before their names.

    Args:
        path: the file; it must load with ``weights_only=True``. Its tensors have the names of the network's authors, or ours,
            as BasicSR saves them after training our network.
        arch: name of the architecture, in any case, e.g. ``"imdn"``.
        genotype: what the file itself does not tell, in any form of :func:`sr_nas.genotype.genotype_from`.

    Raises:
        UserError: unknown architecture, or a file that does not hold it.
    """
    known = {name.lower(): convert for name, convert in CONVERTERS.items()}
    if arch.lower() not in known:
        raise UserError(f"no released weights of '{arch}' are known{nearest(arch, CONVERTERS)} Known: {listing(CONVERTERS)}.")
    tensors = bare_tensors(load_tensors(Path(path)), Path(path))
    if "head.weight" in tensors:
        return _by_our_names(tensors, next(name for name in CONVERTERS if name.lower() == arch.lower()), genotype, Path(path))
    return known[arch.lower()](tensors, Path(path), genotype).eval()


def _by_our_names(tensors: Mapping[str, Tensor], arch: str, genotype: Any, path: Path) -> SRNetwork:
    """Build a network from what BasicSR's training of it saved: its sizes show in the tensors, its genotype does not."""
    parts = {int(match[1]) for name in tensors if (match := re.match(r"(?:blocks|cells)\.(\d+)\.", name))}
    if "tail.weight" not in tensors or not parts or any(tensors[name].ndim != 4 for name in ("head.weight", "tail.weight")):
        raise UserError(f"{path} holds no {arch}: head, blocks or cells, and tail are expected, found {listing(tensors, 8)}.")
    scale = round((tensors["tail.weight"].shape[0] / 3) ** 0.5)
    if genotype is None and any(name.startswith("joins.") for name in tensors):
        raise UserError(
            f"{path} does not say which cells feed which: tensors of any two have the same shape. "
            "Name its genotype with --genotype."
        )
    chosen = {} if genotype is None else {"genotype": genotype}
    network = NETWORKS.get(arch)(scale, tensors["head.weight"].shape[0], len(parts), **chosen)
    return fill(network, tensors, path).eval()


def bare_tensors(loaded: Mapping[str, Any], path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Take the tensors out of the wrappers that training codes put around them.

    Args:
        loaded: content of the file.
        path: the file, for messages.
        key: of the wrapper; by default the first of :data:`WRAPPERS` that the file has, or none.

    Raises:
        UserError: no wrapper is known and something in the file is no tensor; the text lists what was found.
    """
    wrapper = wrapper_of(loaded) if key is None else key
    tensors = loaded if wrapper is None else loaded.get(wrapper)
    if not isinstance(tensors, Mapping) or not tensors or not _by_name(tensors):
        expected = f"under '{key}'" if key is not None else f"bare or under {listing(WRAPPERS)}"
        raise UserError(f"{path}: tensors are expected, {expected}; found {listing(loaded, 10)}.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _by_name(tensors: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items())


def wrapper_of(loaded: Mapping[str, Any]) -> str | None:
    """Return the key under which a file's tensors lie, or ``None`` where they lie bare."""
    return next((name for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
