"""``torch.compile``, tried before a run is made."""

from __future__ import annotations

import torch
from torch import nn

from sr_nas.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Compile and run a small module, since ``torch.compile`` finds out about its compiler at the first call.

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
