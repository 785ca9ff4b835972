"""Networks as ``.pth``: what BasicSR and the tools of its family take, and spandrel with our architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import SETTINGS, described, filled, network_from, settings_tensor
from sr_nas.runs.checkpoint import load_tensors
from sr_nas.runs.files import replacing

METADATA = "sr_nas"


def save_pth(path: Path, network: SRNetwork, training: dict[str, Any] | None = None) -> None:
    """Write ``{"params": tensors, "state_dict": tensors and settings, "sr_nas": metadata}``.

    BasicSR takes ``params``, which therefore holds what the network has and nothing else: it loads strictly. Spandrel takes
    ``state_dict`` before ``params``, and finds the settings there, without which DLSR cannot be built. The tensors are
    stored once.

    Args:
        path: file to write, ``.pth``.
        network: an instance of a registered network.
        training: JSON-ready summary of its training.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = {
        "params": tensors,
        "state_dict": tensors | {SETTINGS: settings_tensor(network)},
        METADATA: described(network, training),
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)


def read_pth_metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of a ``.pth`` that :func:`save_pth` wrote; ``None`` for any other.

    Raises:
        UserError: the file is missing, damaged, or would run code.
    """
    found = load_tensors(path).get(METADATA)
    return found if isinstance(found, dict) and "architecture" in found else None


def load_pth(path: Path) -> SRNetwork:
    """Build the network of a ``.pth`` that :func:`save_pth` wrote, in eval mode, on the CPU.

    Raises:
        UserError: it is another's, damaged, or does not fit its architecture.
    """
    content = load_tensors(path)
    metadata = content.get(METADATA)
    if not isinstance(metadata, dict) or "architecture" not in metadata or not isinstance(content.get("params"), dict):
        raise UserError(f"{path} does not say what network it holds: name it with --arch, for example --arch imdn.")
    return filled(network_from(metadata["architecture"], json.loads(metadata["settings"])), content["params"], path)
