"""How the network of a training is judged: on which images, by what, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from sr_nas.metrics import bicubic, evaluate_set, psnr
from sr_nas.options.train import TrainOptions
from sr_nas.report.picture import comparison
from sr_nas.report.progress import psnr_ssim
from sr_nas.runs.distributed import from_first
from sr_nas.trainer import Trainer

Scores = Mapping[str, Any]
"""Means of one set, by metric, and whatever else is kept of it."""


@dataclass(frozen=True)
class Judge:
    """What a training does not share with one of another task once it runs.

    Attributes:
        sets: names of the validation sets; the first one judges which network is the best.
        metrics: what a set's scores have; the first is judged by, and more is better.
        heading: what is measured, in words.
        unit: of the first metric, as it follows a number.
        words: says the scores of a set.
        measure: name -> scores of the network that a trainer keeps.

            Raises:
                Diverged: what it gives is not finite.
        told: what a network's file says of its training beyond what all do, JSON-ready.
        beginning: lines that a run begins with.
        picture: draws into a finished run's folder, and says what.
    """

    sets: Sequence[str]
    metrics: tuple[str, ...]
    heading: str
    unit: str
    words: Callable[[Scores], str]
    measure: Callable[[Trainer], dict[str, Any]]
    told: Mapping[str, Any] = field(default_factory=dict)
    beginning: Sequence[str] = ()
    picture: Callable[[Path], Sequence[str]] = lambda folder: ()

    def means(self, record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """The mean scores of a record, without those of each image."""
        return {name: {key: scores[key] for key in self.metrics} for name, scores in record.get("val", {}).items()}

    def by_metric(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The mean scores of a record by names that TensorBoard groups: a chart per metric and set."""
        return {f"{key}/{name}": value for name, scores in self.means(record).items() for key, value in scores.items()}


# MERGED sr_nas.jobs.validation: A network of super-resolution judged by PSNR and SSIM, beside bicubic.


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
