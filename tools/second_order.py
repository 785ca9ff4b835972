"""Print how far finite differences (DARTS, eq. 8) are from the exact second-order gradient of alpha in a search, by their radius.

The error is relative to what second order adds to the gradient of first order: at 1 the approximation is as far from the exact
gradient as first order is. It is measured in a search after some steps, in double precision and in that of a search:
``python tools/second_order.py -opt options/darts_imdn.yml``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_nas.options.load import load_options
from sr_nas.search.bilevel import StepContext, alpha_gradient, alpha_gradient_by_differences
from sr_nas.task import build_searcher, search_options

RADII = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


def gradient(step: StepContext, function: Callable[..., Any], **settings: Any) -> Tensor:
    """Return the gradient of alpha of one step by a function, all choices in one vector."""
    step.alpha.zero_grad()
    function(step, **settings)
    return torch.cat([logits.grad for logits in step.alpha.parameters() if logits.grad is not None]).double()


def errors(options: Any, steps: int, dtype: torch.dtype, radii: Sequence[float]) -> list[float]:
    """Return the error of each radius after steps of a search, relative to what second order adds."""
    searcher = build_searcher(options, torch.device("cpu"))
    searcher.space.train()
    for _ in range(steps):
        searcher.take_step()
    batches = [searcher.next_batch(stream) for stream in (searcher.validation, searcher.training)]
    searcher.space.to(torch.float64), searcher.alpha.to(torch.float64)
    exact_step = searcher.context(*((x.double(), y.double() if y.is_floating_point() else y) for x, y in batches))
    exact, first = gradient(exact_step, alpha_gradient), gradient(replace(exact_step, xi=0.0), alpha_gradient)
    searcher.space.to(dtype), searcher.alpha.to(dtype)
    step = searcher.context(*((x.to(dtype), y.to(dtype) if y.is_floating_point() else y) for x, y in batches))
    added = (exact - first).norm()
    return [((gradient(step, alpha_gradient_by_differences, radius=r) - exact).norm() / added).item() for r in radii]


def print_errors(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", type=Path, required=True, help="option file of a search")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10, 40], help="steps of the search before it is measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of the search")
    parser.add_argument("--force_yml", nargs="+", default=[], help="other values of options, as in a search")
    parsed = parser.parse_args(arguments)
    print("seed  steps  precision " + "".join(f"{radius:>8.0e}" for radius in RADII))
    for seed in parsed.seeds:
        words = ["search:order=second", *parsed.force_yml, f"manual_seed={seed}", "num_gpu=0"]
        options = load_options(search_options, parsed.opt, words)
        for steps in parsed.steps:
            for dtype in (torch.float64, torch.float32):
                values = errors(options, steps, dtype, RADII)
                print(f"{seed:4}  {steps:5}  {str(dtype)[6:]:9} " + "".join(f"{value:8.2g}" for value in values), flush=True)


if __name__ == "__main__":
    print_errors()
