"""The weights that a training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sr_nas.contracts import Network, SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.export.network_file import read_metadata, read_tensors
from sr_nas.export.released import WRAPPERS, bare_tensors, wrapper_of
from sr_nas.runs.checkpoint import load_tensors


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
