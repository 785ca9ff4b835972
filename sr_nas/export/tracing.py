"""A network as a graph of any batch, height and width, and the check that a file holds the same function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError
from sr_nas.inference.fold import folded

EXAMPLE = (2, 3, 40, 46)
"""The size a graph is traced at. No side of it is special to a network: none is 0 or 1 behind strides and poolings."""
CHECKED = ((1, 3, 17, 31), (2, 3, 40, 24), (1, 3, 9, 6))
"""The sizes a file is checked at: odd ones, another batch, and one below the reach of every network here."""
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest difference that is rounding, for outputs of 0..1: a fortieth of a step of 8 bits, and two and a half of them."""


class InHalf(nn.Module):
    """A network of float16 behind an input and before an output of float32, so that callers need not know.

    Args:
        network: changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, lr: Tensor) -> Tensor:
        """Map float32 to float32."""
        out: Tensor = self.network(lr.half()).float()
        return out


def traced(network: nn.Module, half: bool = False) -> Any:
    """Return a network, in eval mode, its BatchNorms folded, as a ``torch.export.ExportedProgram`` of any size.

    Batch, height and width are free from 1 on.

    Args:
        network: left as it is.
        half: compute in float16; input and output stay float32.

    Raises:
        UserError: PyTorch is too old.
    """
    from torch.fx.experimental import _config

    config: Any = _config

    if not hasattr(config, "backed_size_oblivious"):
        raise UserError(f"exporting a graph of any size needs PyTorch 2.7 or newer; this is {torch.__version__}.")
    module = folded(network)
    free = torch.export.Dim.DYNAMIC
    # Without this, PyTorch writes down that no side behind a stride or pooling may be 1, which refuses small images.
    with config.patch(backed_size_oblivious=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            InHalf(module).eval() if half else module, (torch.rand(EXAMPLE),), dynamic_shapes=({0: free, 2: free, 3: free},)
        )
    for node in program.graph.nodes:
        # Names the files and lines of the machine that exports.
        node.meta.pop("stack_trace", None)
    return program


def check_same(network: nn.Module, run: Callable[[Tensor], Tensor], precision: str, what: str) -> float:
    """Compare a file's graph with the network it was made of, at three sizes of noise in 0..1.

    Returns:
        The largest difference.

    Raises:
        UserError: it exceeds :data:`TOLERANCE`, or the graph does not run at a size.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for size in CHECKED:
        x, shown = torch.rand(size, generator=generator), "x".join(map(str, size))
        with torch.inference_mode():
            expected = network(x)
            try:
                found = run(x)
            except Exception as error:
                raise UserError(f"{what} does not run on an input of {shown}, so that no file is written: {error}") from error
        if found.shape != expected.shape:
            raise UserError(f"{what} gives {list(found.shape)} for an input of {shown}, PyTorch {list(expected.shape)}.")
        difference = (found - expected).abs().max().item()
        # Written so that NaN is refused too.
        if not difference <= TOLERANCE[precision]:
            advice = " Export it without --fp16." if precision == "fp16" else ""
            raise UserError(
                f"{what} differs from PyTorch by {difference:.2g} on an input of {shown}; up to {TOLERANCE[precision]:g} would "
                f"be rounding in {precision}. No file is written.{advice}"
            )
        largest = max(largest, difference)
    return largest
