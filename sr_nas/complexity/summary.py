"""What a whole network costs; of super-resolution, multiply-adds in both conventions of the field."""

from __future__ import annotations

from fractions import Fraction

from torch import nn

from sr_nas.complexity.macs import LR_1280x720, Size, count_macs, trace_macs
from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.complexity.receptive import receptive_field
from sr_nas.contracts import Classifier, SRNetwork

MACS_LR = "MACs, LR input 1280x720"
MACS_HR = "MACs, HR output 1280x720"


def count_params(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def complexity(network: SRNetwork) -> dict[str, int]:
    """Return ``params``, ``macs_lr_1280x720`` and ``macs_hr_1280x720``."""
    lr, hr = count_macs(network, *conventions(network.scale))
    return {"params": count_params(network), "macs_lr_1280x720": lr[""], "macs_hr_1280x720": hr[""]}


def classifier_complexity(network: Classifier) -> dict[str, int]:
    """Return ``params`` and ``macs_<side>x<side>``, for one image of the size that the network is made for.

    An auxiliary head is for training alone; published counts leave it out, and so does this.
    """
    side = network.input_size
    macs = trace_macs(network, (side, side))
    used = sum(own.numel() for name, own in network.named_parameters() if not name.startswith("auxiliary."))
    return {"params": used, f"macs_{side}x{side}": macs[""]}


def conventions(scale: int) -> tuple[Size, Size]:
    """Input sizes of the field's two conventions: an LR input of 1280x720, and one for an HR output of 1280x720."""
    height, width = LR_1280x720
    return LR_1280x720, (Fraction(height, scale), Fraction(width, scale))


def footprint(network: SRNetwork) -> dict[str, int | None]:
    """Return what takes seconds to measure: ``receptive_field`` and ``peak_activation_bytes``.

    The receptive field is in LR pixels, ``None`` for the whole image. The activations are those of an HR output of 1280x720,
    or of the nearest size that is a multiple of the scale.
    """
    height, width = (round(side / network.scale) for side in LR_1280x720)
    return {
        "receptive_field": receptive_field(network),
        "peak_activation_bytes": peak_activation_bytes(network, (height, width)),
    }


def per_layer(network: nn.Module) -> list[tuple[str, str, int, int]]:
    """Return (name, kind, parameters, MACs) of every layer that has either.

    MACs are for an LR input of 1280x720, and of a classifier for the size it is made for.
    """
    side = getattr(network, "input_size", None)
    macs = count_macs(network, LR_1280x720)[0] if side is None else trace_macs(network, (side, side))
    rows = []
    for name, module in network.named_modules():
        if next(module.children(), None) is None:
            row = (name, type(module).__name__, count_params(module), macs[name])
            if row[2] or row[3]:
                rows.append(row)
    return rows
