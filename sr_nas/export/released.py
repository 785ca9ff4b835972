"""Weights that others have released, under our names for the same tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.networks.imdn import IMDN
from sr_nas.runs.checkpoint import load_tensors

WRAPPERS = ("params_ema", "params", "state_dict", "model")
_IMDN_NAMES = (
    (r"^fea_conv\.", "head."),
    (r"^IMDB(\d+)\.c([1-4])\.", lambda match: f"blocks.{int(match[1]) - 1}.convs.{int(match[2]) - 1}."),
    (r"^IMDB(\d+)\.c5\.", lambda match: f"blocks.{int(match[1]) - 1}.fuse."),
    (r"^IMDB(\d+)\.cca\.conv_du\.", lambda match: f"blocks.{int(match[1]) - 1}.attention.gate."),
    (r"^c\.0\.", "fuse."),
    (r"^LR_conv\.", "body."),
    (r"^upsampler\.0\.", "tail."),
)


def imdn_from_released(tensors: Mapping[str, Tensor], path: Path) -> IMDN:
    """Build the published IMDN of any size and scale from its authors' tensor names (github.com/Zheng222/IMDN).

    Raises:
        UserError: these are not the tensors of an IMDN.
    """
    renamed = {_rename(name, _IMDN_NAMES): tensor for name, tensor in tensors.items()}
    blocks = {int(match[1]) for name in renamed if (match := re.match(r"blocks\.(\d+)\.", name))}
    if "head.weight" not in renamed or "tail.weight" not in renamed or not blocks:
        raise UserError(
            f"{path} holds no released IMDN: fea_conv, IMDB1 ... and upsampler.0 are expected, found {listing(tensors, 8)}."
        )
    scale = round((renamed["tail.weight"].shape[0] / 3) ** 0.5)
    network = IMDN(scale, renamed["head.weight"].shape[0], len(blocks))
    own = network.state_dict()
    wrong = [name for name in own if name not in renamed or renamed[name].shape != own[name].shape]
    unknown = [name for name in renamed if name not in own]
    if wrong or unknown:
        raise UserError(
            f"{path} is no published IMDN x{scale}; missing or of another shape: {listing(wrong, 5) or 'nothing'}; "
            f"unknown: {listing(unknown, 5) or 'nothing'}."
        )
    network.load_state_dict(renamed)
    return network


CONVERTERS: dict[str, Callable[[Mapping[str, Tensor], Path], SRNetwork]] = {IMDN.arch: imdn_from_released}


def load_released(path: str | Path, arch: str) -> SRNetwork:
    """Load a released ``.pth`` file into our network of the same architecture, in eval mode, on the CPU.

    The tensors may lie bare, under ``params_ema``, ``params``, ``state_dict`` or ``model``, with or without ``module.``
    before their names.

    Args:
        path: the file; it must load with ``weights_only=True``.
        arch: name of the architecture, in any case, e.g. ``"imdn"``.

    Raises:
        UserError: unknown architecture, or a file that does not hold it.
    """
    known = {name.lower(): convert for name, convert in CONVERTERS.items()}
    if arch.lower() not in known:
        raise UserError(f"no released weights of '{arch}' are known{nearest(arch, CONVERTERS)} Known: {listing(CONVERTERS)}.")
    return known[arch.lower()](bare_tensors(load_tensors(Path(path)), Path(path)), Path(path)).eval()


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


def _rename(name: str, rules: Any) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
