"""Top-1 and top-5 accuracy of a classifier, and its validation during a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sr_nas.classification.labelled import Labelled, LabelledDataset
from sr_nas.classification.options import ClassifierTrainOptions, LabelledImages
from sr_nas.data.loader import in_order
from sr_nas.errors import UserError, listing
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.registry import LABELLED
from sr_nas.report.progress import macs, truth
from sr_nas.task import Scores, Validator

TOP = (1, 5)


def hits(logits: Tensor, target: Tensor, k: int) -> int:
    """Return for how many images fewer than ``k`` other classes have a logit as large as that of the right one.

    Equal logits count against the network: one that prefers no class has recognised none.

    Args:
        logits: ``[N, classes]``.
        target: class numbers, int64, ``[N]``.
        k: 1 for top-1, 5 for top-5.
    """
    right = logits.gather(1, target[:, None])
    return int(((logits >= right).sum(1) <= k).sum())


@torch.inference_mode()
def evaluate_classifier(
    network: nn.Module, batches: Iterable[tuple[Tensor, ...]], device: torch.device | str
) -> dict[str, float]:
    """Return ``top1`` and ``top5`` in per cent of the images, and ``images``, their number.

    Args:
        network: maps ``[N, 3, H, W]`` to logits ``[N, classes]``; run in eval mode and left in the mode that it was in.
        batches: pairs (images, class numbers).
        device: where the network is.

    Raises:
        NonFiniteOutput: the network gives NaN or infinity.
    """
    was_training, counts, images = network.training, dict.fromkeys(TOP, 0), 0
    network.eval()
    try:
        for x, target in batches:
            logits, target = network(x.to(device)), target.to(device)
            if not logits.isfinite().all():
                raise NonFiniteOutput("the network gives NaN or infinity.")
            counts = {k: count + hits(logits, target, k) for k, count in counts.items()}
            images += len(target)
    finally:
        network.train(was_training)
    return {f"top{k}": 100 * count / images for k, count in counts.items()} | {"images": images}


class ClassificationValidator(Validator):
    """Accuracy on validation sets, which are normalised as the training images are.

    Args:
        options: of the training.
        complexity: of the network, for the first line of the training.
        images: the training images.
        device: where the network is.

    Raises:
        UserError: a set cannot be read, is empty, or has other classes.
    """

    metrics, heading, unit = ("top1", "top5"), "top-1 / top-5", " % top-1"

    def __init__(
        self, options: ClassifierTrainOptions, complexity: Mapping[str, Any], images: Labelled, device: torch.device
    ) -> None:
        self.loss, self.complexity, self.images, self.device = options.train.class_opt.type, complexity, images, device
        self.sections = options.datasets.validation()
        self.sets: dict[str, Labelled] = {name: self._open(name, section) for name, section in self.sections.items()}

    def _open(self, name: str, section: LabelledImages) -> Labelled:
        images: Labelled = LABELLED.build(section)(part="test").first(section.limit)
        if images.classes != self.images.classes:
            theirs, ours = listing(images.classes, 5), listing(self.images.classes, 5)
            raise UserError(f"datasets.val: {name} has the classes {theirs}, and the training images {ours}.")
        if not len(images):
            raise UserError(f"datasets.val: {name} has no image in its test part.")
        return replace(images, mean=self.images.mean, std=self.images.std)

    def _batches(self, name: str) -> Iterable[tuple[Tensor, ...]]:
        images, section = self.sets[name], self.sections[name]
        return in_order(LabelledDataset(images), len(images), section.batch_size_per_gpu, section.num_worker_per_gpu)

    def measure(self, network: nn.Module) -> dict[str, Any]:
        return {name: evaluate_classifier(network, self._batches(name), self.device) for name in self.sets}

    def format(self, scores: Scores) -> str:
        return f"top-1 {scores['top1']:.2f} % / top-5 {scores['top5']:.2f} %"

    def card(self) -> dict[str, Any]:
        images = self.images
        return {"loss": self.loss, "mean": list(images.mean), "std": list(images.std), "classes": list(images.classes)}

    def notes(self) -> list[str]:
        costs = [f"{name} {value}" for name, value in macs(self.complexity, 2).items()]
        known = ", ".join(f"{name} {accuracies}" for name, accuracies in truth(self.complexity).items())
        benchmark = [f"NAS-Bench-201 knows these cells, with 16 channels and 5 a stage: {known}"] if known else []
        line = "; ".join([f"the network has {self.complexity['params']:,} parameters", *costs, *benchmark])
        return [line, *(f"{name}: {len(images)} images to validate on" for name, images in self.sets.items())]
