"""A network of super-resolution judged by PSNR and SSIM, beside bicubic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sr_nas.build import build_pairs
from sr_nas.contracts import SRNetwork
from sr_nas.data.pairs import Pairs
from sr_nas.export.model import BEST
from sr_nas.export.network_file import load_network
from sr_nas.inference.images import upscaler
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.jobs.judge import Judge
from sr_nas.metrics.benchmark import bicubic, evaluate_set
from sr_nas.metrics.psnr_ssim import psnr
from sr_nas.options.train import TrainOptions
from sr_nas.report.live import psnr_ssim
from sr_nas.report.picture import comparison
from sr_nas.runs.distributed import from_first
from sr_nas.training.trainer import Trainer

PICTURE = "comparison.png"


def judge_upscaling(options: TrainOptions, device: torch.device) -> Judge:
    """Open the validation sets and measure bicubic on them.

    Raises:
        UserError: a set cannot be read.
    """
    scale, teacher = options.scale, options.train.distill_opt
    sets = {name: build_pairs(section, scale) for name, section in options.datasets.validation().items()}
    baselines = from_first(lambda: {name: evaluate_set(bicubic, pairs, scale) for name, pairs in sets.items()})

    def measure(trainer: Trainer) -> dict[str, Any]:
        upscale = upscaler(trainer.averaged, device=device)
        try:
            return {name: evaluate_set(upscale, pairs, scale) for name, pairs in sets.items()}
        except NonFiniteOutput as error:
            raise trainer.diverged("the output for a validation image is not finite") from error

    return Judge(
        sets=list(sets),
        metrics=("psnr", "ssim"),
        heading="PSNR / SSIM",
        unit=" dB",
        words=psnr_ssim,
        measure=measure,
        told={"loss": options.train.pixel_opt.type} | ({} if teacher is None else {"teacher": teacher.teacher}),
        beginning=[f"bicubic on {name}: {psnr_ssim(scores)}" for name, scores in baselines.items()],
        picture=lambda folder: _draw(folder, sets, scale),
    )


def _draw(folder: Path, sets: Mapping[str, Pairs], scale: int) -> list[str]:
    """Draw the best network's result on the first validation image beside bicubic and HR."""
    if not sets:
        return []
    pairs = next(iter(sets.values()))
    low, high = pairs.lr(0), pairs.hr(0)
    network: SRNetwork = load_network(folder / BEST)
    results = {"bicubic": bicubic(low, scale), folder.name: upscaler(network, device=torch.device("cpu"))(low, scale)}
    columns = [(f"{name}, {psnr(result, high, scale):.2f} dB", result) for name, result in results.items()]
    comparison(folder / PICTURE, [*columns, ("HR", high)])
    return [f"{folder / PICTURE} shows {pairs.names[0]}: bicubic, the network, HR"]
