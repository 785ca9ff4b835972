"""One self-describing file per network: weights as safetensors, everything else in its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sr_nas import __version__
from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.registry import NETWORKS
from sr_nas.runs.files import replacing

FORMAT = "sr_nas network 1"


def save_network(path: Path, network: SRNetwork, training: dict[str, Any] | None = None) -> None:
    """Write a network with all that is needed to build it again.

    The metadata's keys are ``format``, ``architecture``, ``settings`` (JSON: scale, sizes, genotype), ``scale``,
    ``value_range``, ``training`` (JSON: how it was trained, or of which released weights it is) and ``sr_nas_version``.

    Args:
        path: file to write, ``.safetensors``.
        network: an instance of a registered network.
        training: JSON-ready summary of its training.
    """
    metadata = {
        "format": FORMAT,
        "architecture": network.arch,
        "settings": json.dumps(network.settings()),
        "scale": str(network.scale),
        "value_range": "0..1 RGB",
        "training": json.dumps(training or {}),
        "sr_nas_version": __version__,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_network(path: str | Path) -> SRNetwork:
    """Build the network of an exported file, with its weights, in eval mode, on the CPU.

    It takes RGB in 0..1, ``[N, 3, H, W]``, and gives ``[N, 3, scale*H, scale*W]``.

    Raises:
        UserError: the file is missing, damaged, no export of ours, or of an architecture that is not known here.
    """
    metadata, tensors = _read(Path(path))
    if "architecture" not in metadata:
        raise UserError(
            f"{path} is a safetensors file, but not a network exported by sr_nas: its metadata has no 'architecture'."
        )
    network = NETWORKS.get(metadata["architecture"])(**json.loads(metadata["settings"]))
    missing = network.load_state_dict(tensors, strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        raise UserError(
            f"{path} does not fit its architecture {network.arch}; missing: {listing(missing.missing_keys, 5) or 'nothing'}; "
            f"unexpected: {listing(missing.unexpected_keys, 5) or 'nothing'}."
        )
    return network.eval()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of an exported file (see :func:`save_network`).

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(Path(path))[0]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as stream:
            return dict(stream.metadata() or {}), {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it cannot be iterated
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from error
