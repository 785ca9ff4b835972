"""The precision a network runs in, and on which devices that is safe."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from sr_nas.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
"""``"bf16"`` and ``"fp16"`` run the network under autocast; the weights and the output stay float32."""

Wanted = Literal["auto", "fp32", "bf16", "fp16"]
"""What an option file may ask for; ``"auto"`` is what :func:`resolve_precision` makes of it."""

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(device: torch.device, wanted: Wanted) -> Precision:
    """Return the precision to train in: for ``"auto"`` bf16 on CUDA that computes in it, fp16 on other CUDA, else fp32.

    Raises:
        UserError: a half precision was asked for that the device does not compute in.
    """
    if wanted != "auto":
        check_precision(device, wanted)
        return wanted
    if device.type != "cuda":
        return "fp32"
    # Generations before Ampere only emulate bf16, which PyTorch counts as support, and are slower in it than in fp32.
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse half precision where the device does not compute in it.

    fp16 is for accelerators: on the CPU it is slow and narrower than bf16. What an accelerator can do is tried by a
    convolution, since autocast turns itself off with no more than a warning where it does not know the type.

    Raises:
        UserError: so it is.
    """
    if precision == "fp32":
        return
    if device.type == "cpu" and precision == "fp16":
        raise UserError("precision fp16: the CPU computes in bf16 or fp32; fp16 is for a GPU.")
    lacks_bf16 = device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported()
    if lacks_bf16 or not _computes(device, HALVES[precision]):
        others = " or ".join(name for name in ("fp32", *HALVES) if name != precision and (device.type, name) != ("cpu", "fp16"))
        raise UserError(f"precision {precision}: {device.type} does not compute in it here; use {others}.")


def _computes(device: torch.device, half: torch.dtype) -> bool:
    x = torch.ones(1, 1, 1, 1, device=device)
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=half):
            result = torch.nn.functional.conv2d(x, x)
    except RuntimeError:
        return False
    return result.dtype == half and bool(result.float().eq(1).all())


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Autocast to the precision on the device; nothing for fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=HALVES[precision])
