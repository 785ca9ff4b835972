"""Scores of one network on benchmark sets, beside those of bicubic upscaling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sr_nas.contracts import SRNetwork
from sr_nas.data.pairs import Pairs
from sr_nas.data.sources import benchmark_set, sample
from sr_nas.errors import UserError
from sr_nas.inference.images import upscaler
from sr_nas.metrics import PROTOCOL, bicubic, evaluate_set

SAMPLE = "sample"
FROM_HR = "made from HR"


def evaluate(
    network: SRNetwork, data: Sequence[Path], lr: Path | None, device: torch.device, console: Console, tile: int | None = None
) -> dict[str, Any]:
    """Score a network by PSNR in dB and SSIM, beside bicubic.

    Args:
        network: to score.
        data: folders of sets (see :func:`sr_nas.data.layouts.find_sets`); ``sample`` is the held-out sample photo.
        lr: folder of the LR images, for a single set.
        device: where the network runs.
        console: where progress is shown.
        tile: side of the tiles in LR pixels; ``None`` runs the network on whole images.

    Returns:
        ``{"scale", "protocol", "sets": {name: {"psnr", "ssim", "lr", "bicubic": {"psnr", "ssim"}, "images": {image: ...}}}}``,
        where each image has ``psnr``, ``ssim`` and ``bicubic`` too.

    Raises:
        UserError: a set is missing, cannot be read, or stands twice under one name.
    """
    scale = network.scale
    sets = [open_set(path, scale, lr) for path in data]
    names = [name for name, *_ in sets]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--data names two sets that are both called '{repeated[0]}'.")
    results: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for name, pairs, origin in sets:
            bar = progress.add_task(name, total=2 * len(pairs))
            scores, baseline = (
                evaluate_set(upscale, pairs, scale, lambda *_, bar=bar: progress.advance(bar))
                for upscale in (upscaler(network, tile=tile, device=device), bicubic)
            )
            for image, score in scores["images"].items():
                score["bicubic"] = baseline["images"][image]
            results[name] = scores | {"bicubic": {metric: baseline[metric] for metric in ("psnr", "ssim")}, "lr": origin}
    protocol = dict(PROTOCOL)
    if any(scores["lr"] != FROM_HR for scores in results.values()):
        protocol["lr"] = f"the images named with the set; where it is '{FROM_HR}': {PROTOCOL['lr']}"
    return {"scale": scale, "protocol": protocol, "sets": results}


def open_set(path: Path, scale: int, lr: Path | None = None) -> tuple[str, Pairs, str]:
    """Return a set's name, its pairs, and where its LR images come from."""
    if str(path) == SAMPLE and not path.is_dir():
        if lr is not None:
            raise UserError("--lr names LR images, but those of the sample photo are made from it.")
        return SAMPLE, sample(held_out=True, scale=scale), FROM_HR
    name, pairs, lr_folder = benchmark_set(path, scale, lr)
    return name, pairs, FROM_HR if lr_folder is None else str(lr_folder)
