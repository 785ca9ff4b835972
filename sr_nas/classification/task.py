"""Classification as a task: options, losses, drop-path, top-1 and top-5 accuracy. To add a loss, register a function here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from sr_nas.classification.datasets import Labelled, LabelledDataset
from sr_nas.classification.nasbench201_table import true_accuracy
from sr_nas.complexity.costs import classifier_complexity
from sr_nas.contracts import Classifier
from sr_nas.data.loader import in_order
from sr_nas.errors import UserError, listing
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.options.sections import AnySearch, AnyTraining, Iterations, Validated, WeightSteps
from sr_nas.options.strict import Component, FromRegistry, Strict
from sr_nas.registry import CLASSIFICATION_LOSSES, CLASSIFICATION_SPACES, CLASSIFIERS, LABELLED
from sr_nas.report.progress import macs, truth
from sr_nas.runs.distributed import rank
from sr_nas.task import Scores, Task, Validator

DROP_PATH_SEED = 5  # added to manual_seed, as the seeds of sr_nas.task

Output = Tensor | tuple[Tensor, Tensor]
"""Logits ``[N, classes]``, or these and the logits of an auxiliary head."""


class LabelledImages(Component):
    """A set of labelled images, without augmentation."""

    name: str = ""
    """What to call it in logs; by default its type."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Use the first so many images only; by default all."""
    batch_size_per_gpu: Annotated[int, Field(gt=0, le=2**16)] = 64
    """Images per batch; under torchrun for each of the processes that a run is begun with."""
    num_worker_per_gpu: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load images, for each of a search's two streams; 0 loads them in the run's own process."""


class LabelledSource(LabelledImages):
    """A set of labelled images, and how they are augmented."""

    crop_padding: NonNegativeInt = 4
    """Pixels of zeros around an image, out of which one of its size is cropped at random; 0 to crop none. Not for
    ``image_folder``, which crops in its own way."""
    use_hflip: bool = True
    """Mirror images left to right at random."""
    cutout: NonNegativeInt = 0
    """Side in pixels of a square that is cut out of each image at random; 0 for none."""


class ClassificationDatasets(Strict):
    """Where a search of a classifier takes its images from."""

    train: Annotated[LabelledSource, FromRegistry(LABELLED)]


class ClassifierSteps(WeightSteps):
    """How a classifier's weights are trained."""

    class_opt: Annotated[Component, FromRegistry(CLASSIFICATION_LOSSES)] = Field(
        default={"type": "CrossEntropyLoss"}, validate_default=True
    )
    """Task loss."""


class ClassificationSearchOptions(AnySearch):
    """An option file of ``tools/search.py`` for a classifier."""

    task: Literal["classification"]
    """What the network is for; another task has other options."""
    datasets: ClassificationDatasets
    network_g: Annotated[Component, FromRegistry(CLASSIFICATION_SPACES)]
    """The supernet."""
    train: ClassifierSteps = Field(default={}, validate_default=True)


class ClassifierDatasets(Validated):
    """What a classifier learns from, part ``train`` of a set, and what it is judged on: part ``test`` of ``val`` and its like."""

    __pydantic_extra__: dict[str, Annotated[LabelledImages, FromRegistry(LABELLED)] | None]

    train: Annotated[LabelledSource, FromRegistry(LABELLED)]
    val: Annotated[LabelledImages, FromRegistry(LABELLED)] | None = None
    """Judges which network is the best, or where it is left out, the first of the further sets."""


class ClassifierTraining(Iterations, ClassifierSteps):
    """How a classifier is trained."""

    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of the loss of an auxiliary head, of a network that has one."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of leaving an operation out for an image; it rises to this from 0, epoch by epoch, as in DARTS."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the weights themselves."""


class ClassifierTrainOptions(AnyTraining):
    """An option file of ``tools/train.py`` for a classifier."""

    task: Literal["classification"]
    """What the network is for; another task has other options."""
    datasets: ClassifierDatasets
    network_g: Annotated[Component, FromRegistry(CLASSIFIERS)]
    """The network; how many classes there are, the images tell."""
    train: ClassifierTraining


@CLASSIFICATION_LOSSES.register("CrossEntropyLoss")
def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0) -> Tensor:
    """Mean over the images of ``-log softmax(output)[target]``.

    Args:
        output: logits, ``[N, classes]``.
        target: class numbers, int64, ``[N]``.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    """
    return F.cross_entropy(output, target, label_smoothing=label_smoothing)


def with_auxiliary(loss: Callable[[Tensor, Tensor], Tensor], weight: float) -> Callable[[Output, Tensor], Tensor]:
    """Return the loss ``loss(logits) + weight * loss(auxiliary logits)``; without an auxiliary head, its first term."""

    def combined(output: Output, target: Tensor) -> Tensor:
        if isinstance(output, Tensor):
            return loss(output, target)
        logits, auxiliary = output
        return loss(logits, target) + weight * loss(auxiliary, target)

    return combined


class DropPathSchedule:
    """Raises ``network.drop_path`` from epoch to epoch: ``highest * epoch / epochs``, from 0 (DARTS, appendix A.2.1).

    Called before every iteration. It also seeds PyTorch by (seed, iteration, process), so that a resumed training drops the
    same paths as one that was never stopped.

    Args:
        network: the network that is trained; UserError where it has no drop-path and ``highest`` is above 0.
        highest: limit of the probability, in [0, 1).
        epoch: iterations of an epoch, not rounded.
        total: iterations of the training.
        seed: of the dropped paths.
        rank: number of this process.
    """

    def __init__(self, network: Classifier, highest: float, epoch: Fraction, total: int, seed: int, rank: int = 0) -> None:
        if highest and network.drop_path is None:
            raise UserError(f"train.drop_path: {network.arch} has no operations to leave out; only 0 suits it.")
        self.network, self.highest, self.epoch, self.epochs = network, highest, epoch, math.ceil(total / epoch)
        self.seed, self.rank = seed, rank

    def probability(self, iteration: int) -> float:
        """Return the drop-path probability of an iteration, counted from 0."""
        return self.highest * (iteration // self.epoch) / self.epochs

    def __call__(self, iteration: int) -> None:
        if self.highest:
            self.network.drop_path = self.probability(iteration)
            address = np.random.SeedSequence([self.seed, iteration, self.rank])
            torch.manual_seed(int(address.generate_state(1, np.uint64)[0]))


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the share of the images, in percent, of which the right class has the largest logit."""
    return 100 * (logits.argmax(1) == target).float().mean()


def hits(logits: Tensor, target: Tensor, k: int) -> int:
    """Return for how many images fewer than ``k`` other classes have a logit as large as that of the right one.

    Equal logits count against the network: one that prefers no class has recognised none. ``logits`` are ``[N, classes]``,
    ``target`` class numbers, int64, ``[N]``.
    """
    right = logits.gather(1, target[:, None])
    return int(((logits >= right).sum(1) <= k).sum())


@torch.inference_mode()
def evaluate_classifier(
    network: nn.Module, batches: Iterable[tuple[Tensor, ...]], device: torch.device | str
) -> dict[str, float]:
    """Return ``top1`` and ``top5`` in percent of the images, and ``images``, their number.

    Batches are pairs (images, class numbers). The network runs in eval mode and is left in its previous mode.

    Raises:
        NonFiniteOutput: the network gives NaN or infinity.
    """
    was_training, counts, images = network.training, {1: 0, 5: 0}, 0
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


class Classification(Task):
    """Networks that tell classes of small images apart (:class:`sr_nas.contracts.Classifier`)."""

    search_options, training_options = ClassificationSearchOptions, ClassifierTrainOptions
    metrics: ClassVar = {"accuracy": accuracy}

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
        return classifier_complexity(network) | ({} if accuracy is None else {"truth": accuracy})

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
