"""A network's scores on benchmark sets, beside bicubic's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sr_nas.contracts import SRNetwork
from sr_nas.data.benchmarks import resolve_set
from sr_nas.data.sources.folder import folder
from sr_nas.errors import UserError
from sr_nas.inference.images import upscaler
from sr_nas.metrics.benchmark import bicubic, evaluate_set
from sr_nas.metrics.psnr_ssim import PROTOCOL


def evaluate(network: SRNetwork, data: Sequence[Path], lr: Path | None, device: torch.device, console: Console) -> dict[str, Any]:
    """Score a network.

    Args:
        network: with an attribute ``scale``.
        data: folders of sets (see :func:`sr_nas.data.benchmarks.resolve_set`).
        lr: folder of the LR images, for a single set.
        device: where the network runs.
        console: where progress is shown.

    Returns:
        ``{"scale", "protocol", "sets": {name: {"psnr", "ssim", "images": {image: {"psnr", "ssim", "bicubic"}}, "bicubic":
        {"psnr", "ssim"}, "lr"}}}``, PSNR in dB.

    Raises:
        UserError: a set that is missing, cannot be read, or stands twice under one name.
    """
    scale = network.scale
    sets = [resolve_set(path, scale, lr) for path in data]
    names = [name for name, _, _ in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--data names two sets that are both called '{twice}'.")
    opened = [folder([str(high)], None if low is None else [str(low)], scale=scale) for _, high, low in sets]
    results: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for (name, _, low), pairs in zip(sets, opened, strict=True):
            advance = partial(_advance, progress, progress.add_task(name, total=2 * len(pairs)))
            scores, baseline = (
                evaluate_set(upscale, pairs, scale, advance) for upscale in (upscaler(network, device=device), bicubic)
            )
            for image, score in scores["images"].items():
                score["bicubic"] = baseline["images"][image]
            scores["bicubic"] = {metric: baseline[metric] for metric in ("psnr", "ssim")}
            results[name] = scores | {"lr": "made from HR" if low is None else str(low)}
    return {"scale": scale, "protocol": PROTOCOL, "sets": results}


def _advance(progress: Progress, task: TaskID, *_: object) -> None:
    progress.advance(task)
