"""What a network is, said among its tensors.

Some tools hand on a file's tensors and nothing else: spandrel never looks at the metadata of a safetensors file. Shapes
do not tell all of a network either; which cells feed a cell of DLSR, for one, shows nowhere. So files carry one more
tensor, :data:`SETTINGS`, of uint8: JSON in UTF-8, ``{"architecture": name, "settings": arguments}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.errors import UserError
from sr_nas.registry import CLASSIFIERS, NETWORKS

SETTINGS = "sr_nas.settings"
"""Name of the tensor. No tensor of a module can have it, since no network of ours has a submodule of that name."""


def settings_tensor(network: Network) -> Tensor:
    """Return what builds the network again, as a tensor of bytes, ``[length]``, uint8."""
    text = json.dumps({"architecture": network.arch, "settings": network.settings()})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def read_settings(tensor: Tensor) -> tuple[str, dict[str, Any]]:
    """Return (architecture, settings) of a :func:`settings_tensor`.

    Raises:
        UserError: it holds something else.
    """
    try:
        # A caller may have cast all tensors of a file to half precision, which holds whole numbers up to 2048.
        found = json.loads(bytes(tensor.to("cpu", torch.uint8).tolist()))
        return str(found["architecture"]), dict(found["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the tensor {SETTINGS} does not describe a network: {error!r}.") from error


def network_from(architecture: str, settings: dict[str, Any]) -> SRNetwork:
    """Build a registered network of super-resolution by its settings, freshly initialised.

    Raises:
        UserError: an architecture that is not known here, or settings that it does not take.
    """
    return _built(NETWORKS.get(architecture), architecture, settings)


def classifier_from(architecture: str, settings: dict[str, Any]) -> Classifier:
    """Build a registered classifier; the rest is as in :func:`network_from`."""
    return _built(CLASSIFIERS.get(architecture), architecture, settings)


def _built(build: Callable[..., Any], architecture: str, settings: dict[str, Any]) -> Any:
    try:
        return build(**settings)
    except TypeError as error:
        raise UserError(f"{architecture} cannot be built from the settings {settings}: {error}.") from error
