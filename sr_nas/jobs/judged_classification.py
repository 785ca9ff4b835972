"""A classifier judged by its top-1 and top-5 accuracy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sr_nas.build import bound
from sr_nas.classification.labelled import Labelled, LabelledDataset
from sr_nas.classification.validation import NonFiniteLogits, evaluate_classifier
from sr_nas.contracts import Classifier
from sr_nas.data.loader import in_order
from sr_nas.errors import UserError, listing
from sr_nas.jobs.evaluate import describe
from sr_nas.jobs.validation import Judge, Scores
from sr_nas.options.classification import ClassifierTrainOptions, LabelledImages
from sr_nas.registry import LABELLED
from sr_nas.report.progress import macs, truth
from sr_nas.trainer import Trainer


def judge_classification(options: ClassifierTrainOptions, network: Classifier, images: Labelled, device: torch.device) -> Judge:
    """Open the validation sets, which are normalised as the training images are.

    Args:
        options: of the run.
        network: what is trained.
        images: the training images.
        device: where the network runs.

    Raises:
        UserError: a set cannot be read, or has other classes.
    """
    sections = options.datasets.validation()
    sets = {name: _open(name, section, images) for name, section in sections.items()}

    def measure(trainer: Trainer) -> dict[str, Any]:
        try:
            return {
                name: evaluate_classifier(trainer.averaged, _batches(found, sections[name]), device)
                for name, found in sets.items()
            }
        except NonFiniteLogits as error:
            raise trainer.diverged("the output for a validation image is not finite") from error

    return Judge(
        sets=list(sets),
        metrics=("top1", "top5"),
        heading="top-1 / top-5",
        unit=" % top-1",
        words=in_words,
        measure=measure,
        told={
            "loss": options.train.class_opt.type,
            "mean": list(images.mean),
            "std": list(images.std),
            "classes": list(images.classes),
        },
        beginning=[_described(network), *(f"{name}: {len(found)} images to validate on" for name, found in sets.items())],
    )


def in_words(scores: Scores) -> str:
    """Say ``top1`` and ``top5``."""
    return f"top-1 {scores['top1']:.2f} % / top-5 {scores['top5']:.2f} %"


def _open(name: str, section: LabelledImages, images: Labelled) -> Labelled:
    found: Labelled = bound(LABELLED, section)(part="test").first(section.limit)
    if found.classes != images.classes:
        theirs, ours = listing(found.classes, 5), listing(images.classes, 5)
        raise UserError(f"datasets.val: {name} has the classes {theirs}, and the training images {ours}.")
    if not len(found):
        raise UserError(f"datasets.val: {name} has no image in its test part.")
    return replace(found, mean=images.mean, std=images.std)


def _batches(images: Labelled, section: LabelledImages) -> Any:
    return in_order(LabelledDataset(images), len(images), section.batch_size_per_gpu, section.num_worker_per_gpu)


def _described(network: Classifier) -> str:
    counted = describe(network)
    costs = [f"{name} {value}" for name, value in macs(counted, 2).items()]
    known = [f"{name} {accuracies}" for name, accuracies in truth(counted).items()]
    benchmark = [f"NAS-Bench-201 knows these cells, with 16 channels and 5 a stage: {', '.join(known)}"] if known else []
    return "; ".join([f"the network has {counted['params']:,} parameters", *costs, *benchmark])
