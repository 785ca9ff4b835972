"""Parameters and MACs of a whole super-resolution network, in both conventions of the field."""

from __future__ import annotations

from torch import nn

from sr_nas.complexity.macs import LR_1280x720, count_macs
from sr_nas.contracts import SRNetwork

MACS_LR = "MACs, LR input 1280x720"
MACS_HR = "MACs, HR output 1280x720"


def count_params(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def complexity(network: SRNetwork) -> dict[str, int]:
    """Return ``params``, ``macs_lr_1280x720`` and ``macs_hr_1280x720``."""
    height, width = LR_1280x720
    macs = count_macs(network)[""]
    return {
        "params": count_params(network),
        "macs_lr_1280x720": macs.at(height * width),
        "macs_hr_1280x720": macs.at(height * width / network.scale**2),
    }


def per_layer(network: nn.Module) -> list[tuple[str, str, int, int]]:
    """Return (name, kind, parameters, MACs with LR input 1280x720) of every layer that has either."""
    height, width = LR_1280x720
    macs = count_macs(network)
    rows = []
    for name, module in network.named_modules():
        if next(module.children(), None) is None:
            row = (name, type(module).__name__, count_params(module), macs[name].at(height * width))
            if row[2] or row[3]:
                rows.append(row)
    return rows
