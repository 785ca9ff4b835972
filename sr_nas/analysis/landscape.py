"""What lies around alpha: a quantity over a plane of two random directions (Li et al., NeurIPS 2018; SA-DARTS, figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.func import functional_call

from sr_nas.analysis.figures import landscape_figure
from sr_nas.analysis.history import open_output, write_csv, write_numbers
from sr_nas.analysis.methods import read_run
from sr_nas.build import build_searcher
from sr_nas.options.classification import ClassificationSearchOptions
from sr_nas.options.load import load_options
from sr_nas.options.tasks import SEARCHES
from sr_nas.report.plots import save
from sr_nas.runs.checkpoint import load_tensors
from sr_nas.runs.device import pick_device
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS
from sr_nas.search.searcher import Searcher

Normalise = Literal["alpha", "unit"]
ByLabel = Mapping[str, Tensor]


def random_direction(alpha: ByLabel, seed: Sequence[int], normalise: Normalise) -> dict[str, Tensor]:
    """Return a Gaussian direction, normalised choice by choice as Li et al. normalise filter by filter.

    The part that is common to all logits of a choice is taken out first, of the direction and of alpha alike: softmax does not
    see it, and a regulariser may have made it large.

    Args:
        alpha: label -> logits.
        seed: two of them give two directions; drawn on the CPU, so that every device has the same.
        normalise: ``"alpha"`` gives a choice's part the norm of its alpha, so that 1 is as far as alpha has come; ``"unit"``
            gives it norm 1, the same for every method.
    """
    generator = torch.Generator().manual_seed(_joined(seed))
    found = {}
    for label, logits in alpha.items():
        drawn = _centred(torch.randn(logits.numel(), generator=generator, dtype=torch.float64))
        length = _centred(logits.detach().double().cpu()).norm() if normalise == "alpha" else 1.0
        found[label] = (drawn / drawn.norm().clamp_min(1e-12) * length).to(logits)
    return found


@torch.no_grad()
def over_plane(
    measure: Callable[[dict[str, Tensor]], Sequence[float]],
    alpha: ByLabel,
    first: ByLabel,
    second: ByLabel,
    steps: Sequence[float],
    watch: Callable[[Sequence[float]], Iterable[float]] = iter,
) -> Tensor:
    """Measure at ``alpha + a first + b second`` for all a and b in ``steps``, row by row of b, which pass through ``watch``.

    Returns:
        float64, ``[len(steps) of b, len(steps) of a, what is measured]``.
    """
    rows = [
        [measure({label: logits + a * first[label] + b * second[label] for label, logits in alpha.items()}) for a in steps]
        for b in watch(steps)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean()


def _joined(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)


# MERGED sr_nas.analysis.landscape: Figure 5 of SA-DARTS: loss and accuracy around the alpha of a search,
# its weights as they are.


UNITS = {"alpha": "in norms of alpha", "unit": "in logits"}


@dataclass(frozen=True)
class Plane:
    """Where to measure.

    Attributes:
        radius: farthest step along both directions.
        grid: steps along each, an odd number, so that alpha itself is among them.
        batches: of alpha's half of the images, the first ones of its stream; every point is measured on the same.
        seed: of the two directions, which all searches of one space share up to their norms.
        normalise: see :func:`~sr_nas.analysis.landscape.random_direction`.
    """

    radius: float = 1.0
    grid: int = 21
    batches: int = 4
    seed: int = 0
    normalise: Normalise = "alpha"

    @property
    def steps(self) -> list[float]:
        """Along one direction."""
        return [float(step) for step in np.linspace(-self.radius, self.radius, self.grid)]


def landscape(
    folder: Path, plane: Plane, overrides: Sequence[str] = (), console: Console | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``loss``, and of a classifier ``accuracy`` in percent, over the plane, ``[second direction, first]``.

    BatchNorm normalises by the batch, as it does in alpha's own steps: running statistics belong to one alpha alone. Nothing in
    the folder is changed.

    Args:
        folder: of a search.
        plane: where.
        overrides: ``section:key=value`` texts, such as another place of the data.
        console: where progress is shown.

    Raises:
        UserError: it is no folder of a search, or its data or checkpoint cannot be read.
    """
    read_run(folder)
    options = load_options(SEARCHES, folder / OPTIONS, overrides)
    device = pick_device(options.num_gpu)
    state = load_tensors(folder / CHECKPOINT, device)
    searcher = build_searcher(options, device)
    searcher.alpha.load_state_dict(state["alpha"])
    searcher.space.load_state_dict(state["space"])
    classifies = isinstance(options, ClassificationSearchOptions)
    alpha = {label: logits.detach() for label, logits in searcher.alpha.by_label().items()}
    first, second = (random_direction(alpha, (plane.seed, number), plane.normalise) for number in (0, 1))
    shown = console or Console(quiet=True)
    watch = partial(track, description=folder.name, console=shown, transient=True)
    values = over_plane(_measure(searcher, plane.batches, classifies), alpha, first, second, plane.steps, watch).numpy()
    return {name: values[..., place] for place, name in enumerate(["loss", "accuracy"][: 1 + classifies])}


def _measure(searcher: Searcher, count: int, classifies: bool) -> Callable[[dict[str, Tensor]], list[float]]:
    batches = [tuple(tensor.to(searcher.device) for tensor in searcher.validation.next()) for _ in range(count)]
    space = searcher.space.train()
    state = {name: tensor.detach().clone() for name, tensor in (*space.named_parameters(), *space.named_buffers())}

    def measure(alpha: dict[str, Tensor]) -> list[float]:
        weights = {label: searcher.relaxation(logits) for label, logits in alpha.items()}
        losses, right, seen = [], 0, 0
        for images, target in batches:
            output = functional_call(space, state, (images, weights))
            losses.append(float(searcher.objective.task(output, target)))
            if classifies:
                right, seen = right + int((output.argmax(1) == target).sum()), seen + len(target)
        return [sum(losses) / len(losses), *([100 * right / seen] if classifies else [])]

    return measure


def write_landscapes(surfaces: dict[str, dict[str, npt.NDArray[np.float64]]], plane: Plane, folder: Path) -> None:
    """Write ``landscape.json``, ``landscape.csv`` and ``landscape.png``; ``surfaces`` is by search."""
    shared = [name for name in next(iter(surfaces.values())) if all(name in found for found in surfaces.values())]
    steps = plane.steps
    content = {
        "steps": steps,
        "unit": UNITS[plane.normalise],
        "batches": plane.batches,
        "seed": plane.seed,
        "searches": {
            search: {name: values.tolist() for name, values in found.items()} | {"summary": summary(found)}
            for search, found in surfaces.items()
        },
    }
    write_numbers(folder / "landscape.json", content)
    rows = [
        [
            search,
            first,
            second,
            *(float(found[name][row, column]) if name in found else float("nan") for name in ("loss", "accuracy")),
        ]
        for search, found in surfaces.items()
        for row, second in enumerate(steps)
        for column, first in enumerate(steps)
    ]
    write_csv(folder / "landscape.csv", ["search", "first", "second", "loss", "accuracy"], rows)
    drawn = {search: {name: found[name] for name in shared} for search, found in surfaces.items()}
    save(landscape_figure(drawn, steps, UNITS[plane.normalise]), folder / "landscape.png")


def summary(found: dict[str, npt.NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Return of each quantity its value at alpha, and mean, deviation, least and largest over the plane."""
    return {
        name: {
            "at_alpha": float(values[len(values) // 2, len(values) // 2]),
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
        }
        for name, values in found.items()
    }


def measure_landscapes(
    folders: Sequence[Path], plane: Plane, output: Path | None, overrides: Sequence[str] = (), console: Console | None = None
) -> tuple[Path, dict[str, dict[str, npt.NDArray[np.float64]]]]:
    """Measure the landscapes of searches and write them; return the folder and the surfaces by search."""
    surfaces: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for folder in folders:
        name = folder.resolve().name
        surfaces[name if name not in surfaces else str(folder)] = landscape(folder, plane, overrides, console)
    written = open_output(output, "landscape")
    write_landscapes(surfaces, plane, written)
    return written, surfaces
