"""Weights that others have released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.export.released_dlsr import dlsr_from_released
from sr_nas.export.released_imdn import imdn_from_released
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
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
        path: the file; it must load with ``weights_only=True``.
        arch: name of the architecture, in any case, e.g. ``"imdn"``.
        genotype: what the file itself does not tell, in any form of :func:`sr_nas.genotype.genotype_from`.

    Raises:
        UserError: unknown architecture, or a file that does not hold it.
    """
    known = {name.lower(): convert for name, convert in CONVERTERS.items()}
    if arch.lower() not in known:
        raise UserError(f"no released weights of '{arch}' are known{nearest(arch, CONVERTERS)} Known: {listing(CONVERTERS)}.")
    return known[arch.lower()](bare_tensors(load_tensors(Path(path)), Path(path)), Path(path), genotype).eval()


def bare_tensors(loaded: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Take the tensors out of the wrappers that training codes put around them.

    Raises:
        UserError: no wrapper is known and something in the file is no tensor; the text lists what was found.
    """
    wrapper = next((name for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
    tensors = loaded[wrapper] if wrapper else loaded
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: tensors are expected, bare or under {listing(WRAPPERS)}; found {listing(tensors, 10)}.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
