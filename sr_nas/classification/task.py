"""Classification as a task: labelled images, cross-entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sr_nas.classification.labelled import Labelled, LabelledDataset
from sr_nas.classification.nasbench201_table import true_accuracy
from sr_nas.classification.options import ClassificationSearchOptions, ClassifierTrainOptions
from sr_nas.classification.training import DropPathSchedule, with_auxiliary
from sr_nas.classification.validation import ClassificationValidator
from sr_nas.complexity.costs import classifier_complexity
from sr_nas.contracts import Classifier
from sr_nas.registry import CLASSIFICATION_LOSSES, CLASSIFICATION_SPACES, CLASSIFIERS, LABELLED
from sr_nas.runs.distributed import rank
from sr_nas.task import Task, Validator

DROP_PATH_SEED = 5  # added to manual_seed, as the seeds of sr_nas.task


class Classification(Task):
    """Networks that tell classes of small images apart (:class:`sr_nas.contracts.Classifier`)."""

    search_options, training_options = ClassificationSearchOptions, ClassifierTrainOptions

    def images(self, options: Any) -> Labelled:
        section = options.datasets.train
        images: Labelled = LABELLED.build(section)(part="train")
        return images.first(section.limit)

    def samples(self, options: Any, images: Labelled, seed: int) -> Dataset[Any]:
        section = options.datasets.train
        return LabelledDataset(images, section.crop_padding, section.use_hflip, section.cutout, seed)

    def loss(self, options: Any) -> Callable[[Any, Tensor], Tensor]:
        return CLASSIFICATION_LOSSES.build(options.train.class_opt)

    def space(self, options: Any, images: Labelled | None = None) -> Any:
        space = CLASSIFICATION_SPACES.build(options.network_g)
        return space() if images is None else space(num_classes=len(images.classes))

    def network(self, options: Any, images: Labelled) -> Classifier:
        return CLASSIFIERS.build(options.network_g)(num_classes=len(images.classes))

    def complexity_of(self, network: Classifier) -> dict[str, Any]:
        accuracy = true_accuracy(network.genotype)
        return classifier_complexity(network) | ({} if accuracy is None else {"true_accuracy": accuracy})

    def network_block(self, network: Classifier) -> dict[str, Any]:
        # A classifier is searched in small and trained in the size of its own defaults, which is the published one.
        genotype = network.settings()["genotype"]
        return {"task": "classification", "network_g": {"type": network.arch, "genotype": genotype}}

    def validator(self, options: ClassifierTrainOptions, network: Any, images: Labelled, device: torch.device) -> Validator:
        return ClassificationValidator(options, self.complexity_of(network), images, device)

    def trainer_arguments(
        self, options: ClassifierTrainOptions, network: Classifier, batches_per_epoch: int, device: torch.device
    ) -> dict[str, Any]:
        plan = options.train
        epoch = Fraction(batches_per_epoch, plan.accumulate)
        seed = options.manual_seed + DROP_PATH_SEED
        return {
            "loss": with_auxiliary(self.loss(options), plan.auxiliary_weight),
            "before_step": DropPathSchedule(network, plan.drop_path, epoch, plan.total_iter, seed, rank()),
        }

    def batch_metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * float((output.argmax(1) == target).float().mean())}
