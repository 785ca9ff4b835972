"""Super-resolution as a task: pairs of LR and HR images, pixel losses, PSNR and SSIM."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sr_nas.complexity.costs import complexity
from sr_nas.complexity.memory import PROBE
from sr_nas.contracts import SRNetwork
from sr_nas.data.loader import PatchDataset
from sr_nas.data.sources import Pairs
from sr_nas.errors import UserError
from sr_nas.export.model import BEST, load_model
from sr_nas.export.network_file import load_network
from sr_nas.inference.images import upscaler
from sr_nas.metrics import bicubic, evaluate_set, psnr
from sr_nas.networks.imdn import IMDN
from sr_nas.networks.imdn_table import truth
from sr_nas.options.sections import SearchOptions, TrainOptions
from sr_nas.registry import LOSSES, NETWORKS, PAIRS, SPACES
from sr_nas.report.page import PICTURE
from sr_nas.report.plots import DETAIL, comparison_figure, extreme_gains, save
from sr_nas.runs.distributed import from_first
from sr_nas.runs.run_dir import read_history
from sr_nas.task import Scores, Task, Validator
from sr_nas.trainer import Distillation

DEGRADATION = "sr_nas.data.degradation"
FAINT = 0.1
"""Factor of the random weights beside those that copy the image, with ``train.start: nearest``."""

Module = TypeVar("Module", bound=nn.Module)


class SuperResolution(Task):
    """Networks that upscale an image by 2, 3 or 4 (:class:`sr_nas.contracts.SRNetwork`)."""

    search_options, training_options = SearchOptions, TrainOptions
    costs = ("macs_hr", "macs_lr", "params")
    metrics: ClassVar = {"psnr": lambda output, target: -10 * (output - target).square().mean((1, 2, 3)).log10().mean()}

    def images(self, options: Any) -> Pairs:
        return PAIRS.build(options.datasets.train)(scale=options.scale)

    def samples(self, options: Any, images: Pairs, seed: int) -> Dataset[Any]:
        section = options.datasets.train
        arguments = (images, section.gt_size, section.use_hflip, section.use_rot, seed, section.hardest_of)
        if not section.degradation:
            return PatchDataset(*arguments)
        patches: Dataset[Any] = pkgutil.resolve_name(f"{DEGRADATION}:DegradedPatches")(section.degradation, *arguments)
        return patches

    def loss(self, options: Any) -> Callable[[Any, Tensor], Tensor]:
        return LOSSES.build(options.train.pixel_opt)

    def space(self, options: Any, images: Any = None) -> Any:
        return started(SPACES.build(options.network_g)(scale=options.scale), options.train.start)

    def network(self, options: Any, images: Any = None) -> SRNetwork:
        network: SRNetwork = NETWORKS.build(options.network_g)(scale=options.scale)
        return started(network, options.train.start)

    def complexity_of(self, network: SRNetwork) -> dict[str, Any]:
        costs: dict[str, Any] = dict(complexity(network))
        known = truth(network.settings()) if isinstance(network, IMDN) else None
        return costs if known is None else costs | {"truth": known}

    def network_block(self, network: SRNetwork) -> dict[str, Any]:
        settings = network.settings()
        return {"scale": settings.pop("scale"), "network_g": {"type": network.arch} | settings}

    def validator(self, options: TrainOptions, network: nn.Module, images: Any, device: torch.device) -> Validator:
        return SRValidator(options, device)

    def trainer_arguments(
        self, options: TrainOptions, network: Any, batches_per_epoch: int, device: torch.device
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {"loss": self.loss(options)}
        if (kind := options.train.reparam) != "none":
            arguments["network"] = pkgutil.resolve_name("sr_nas.ops.reparam:branched")(network, kind)
        section = options.train.distill_opt
        if section is None:
            return arguments
        where = "train.distill_opt.teacher"
        teacher = load_model(section.teacher)
        if teacher.scale != options.scale:
            raise UserError(f"{where}: {section.teacher} upscales by {teacher.scale}, and this training by {options.scale}.")
        return arguments | {"distillation": Distillation(teacher.to(device), LOSSES.build(section))}

    def probe(self, options: SearchOptions, batch_size: int) -> tuple[Tensor, Tensor, int]:
        low, high = (torch.zeros(1, 3, *(factor * side for side in PROBE)) for factor in (1, options.scale))
        return low, high, batch_size * (options.datasets.train.gt_size // options.scale) ** 2


def started(network: Module, start: str) -> Module:
    """Return a network, or a supernet, with the weights that ``train.start`` asks for; they are changed in place.

    With ``"nearest"`` the first three features are the colours of the image, and the last convolution copies each of them to all
    pixels of the output that it becomes: what comes out is nearest-neighbour upscaling, and little of all else.

    Raises:
        UserError: the network has no head, body and tail as IMDN and DLSR have them.
    """
    if start == "random":
        return network
    head, body, tail = (getattr(network, name, None) for name in ("head", "body", "tail"))
    if not (isinstance(head, nn.Conv2d) and isinstance(body, nn.Conv2d) and isinstance(tail, nn.Conv2d)):
        raise UserError(f"train.start: {start} is for networks with head, body and tail, and {type(network).__name__} has none.")
    copies = tail.out_channels // 3
    with torch.no_grad():
        for convolution in (body, tail):
            convolution.weight.mul_(FAINT)
            nn.init.zeros_(cast(Tensor, convolution.bias))
        for parameter in (head.weight, cast(Tensor, head.bias)):
            parameter[:3] = 0
        for colour in range(3):
            head.weight[colour, colour, 1, 1] = 1
            tail.weight[copies * colour : copies * (colour + 1), colour, 1, 1] += 1
    return network


class SRValidator(Validator):
    """PSNR in dB and SSIM by the field's protocol (:mod:`sr_nas.metrics`), beside those of bicubic upscaling."""

    metrics, heading, unit = ("psnr", "ssim"), "PSNR / SSIM", " dB"

    def __init__(self, options: TrainOptions, device: torch.device) -> None:
        self.options, self.scale, self.device = options, options.scale, device
        sections = options.datasets.validation()
        self.sets: dict[str, Pairs] = {name: PAIRS.build(section)(scale=self.scale) for name, section in sections.items()}
        for name, section in sections.items():
            if section.degradation:
                self.sets[name] = pkgutil.resolve_name(f"{DEGRADATION}:degraded")(self.sets[name], section.degradation)
        self.baselines = from_first(lambda: self._evaluate(bicubic))

    def _evaluate(self, upscale: Callable[..., Any]) -> dict[str, Any]:
        return {name: evaluate_set(upscale, pairs, self.scale) for name, pairs in self.sets.items()}

    def measure(self, network: SRNetwork) -> dict[str, Any]:
        baselines = {name: {metric: scores[metric] for metric in self.metrics} for name, scores in self.baselines.items()}
        scores = self._evaluate(upscaler(network, device=self.device))
        return {name: one | {"bicubic": baselines[name]} for name, one in scores.items()}

    def format(self, scores: Scores) -> str:
        return f"{scores['psnr']:.3f} dB / {scores['ssim']:.4f}"

    def card(self) -> dict[str, Any]:
        train = self.options.train
        bicubic = {name: scores["psnr"] for name, scores in self.baselines.items()}
        teacher = {} if train.distill_opt is None else {"teacher": train.distill_opt.teacher}
        branches = {} if train.reparam == "none" else {"reparam": train.reparam}
        return {"loss": train.pixel_opt.type, "bicubic": bicubic} | teacher | branches

    def notes(self) -> list[str]:
        return [f"bicubic on {name}: {self.format(scores)}" for name, scores in self.baselines.items()]

    def draw(self, folder: Path) -> list[str]:
        """Draw the best network's result between bicubic and HR: where it gains most, which letters and edges do, and fur not.

        Of the first validation set it is the image whose mean squared error (of Y) the last network lowers most below bicubic's,
        and of that the square of :data:`DETAIL` pixels where the best network does (:func:`extreme_gains`).
        """
        if not self.sets:
            return []
        title, pairs = next(iter(self.sets.items()))
        after, before = (scores[title]["images"] for scores in (read_history(folder)[-1]["val"], self.baselines))
        gains = [10 ** (-before[name]["psnr"] / 10) - 10 ** (-after[name]["psnr"] / 10) for name in pairs.names]
        index = gains.index(max(gains))
        low, high = pairs.lr(index), pairs.hr(index)
        network = upscaler(load_network(folder / BEST), device=torch.device("cpu"))
        results = {"bicubic": bicubic(low, self.scale), folder.name: network(low, self.scale)}
        columns = [(f"{name}, {psnr(result, high, self.scale):.2f} dB", result) for name, result in results.items()]
        crop = extreme_gains(results[folder.name], results["bicubic"], high, self.scale, DETAIL)["best"][1]
        save(comparison_figure([*columns, (f"{pairs.names[index]}, HR", high)], crop), folder / PICTURE)
        return [f"{folder / PICTURE} shows {pairs.names[index]}: bicubic, the network, HR"]
