"""``torch.compile``, tried before a run is made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError


def compiled(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that runs the network compiled, with its weights; the network itself stays as it is, names included.

    A small module is compiled and run first, since ``torch.compile`` finds out about its compiler at the first call.

    Raises:
        UserError: PyTorch cannot compile for the device here; the text has its reason.
    """
    trial = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).to(device)
    try:
        torch.compile(trial)(torch.zeros(1, 1, 4, 4, device=device)).sum().backward()
    except Exception as error:  # PyTorch has no common type for a missing compiler, a missing Triton, an unknown Python
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
        raise UserError(
            f"train.compile: PyTorch cannot compile for {device.type} here ({reason}). "
            "It needs a C++ compiler for the CPU and Triton for a GPU; install it, or set train.compile to false."
        ) from error
    return torch.compile(network)
