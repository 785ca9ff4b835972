"""Figure 5 of SA-DARTS: loss and accuracy over a plane of two random directions around a search's alpha.

After Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018. The weights of the supernet stay as they are.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from torch import Tensor
from torch.func import functional_call

from sr_nas.analysis.history import read_run
from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from sr_nas.report.plots import Values, new_figure, save, style
from sr_nas.report.progress import RunView
from sr_nas.report.tables import Report, check_output, open_output, write_csv, write_numbers
from sr_nas.runs.device import pick_device
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS, load_tensors, restoring
from sr_nas.search.searcher import Searcher
from sr_nas.task import Task, build_searcher, find_task, search_options

UNITS = {"alpha": "in norms of alpha", "unit": "in logits"}
AS_STORED = {"crop_padding": "0", "cutout": "0", "use_hflip": "false", "use_rot": "false"}
"""Options of training images that change them, and what leaves them as they are."""
ByLabel = Mapping[str, Tensor]
"""label -> logits of its candidates."""


def random_direction(alpha: ByLabel, seed: Sequence[int], normalise: Literal["alpha", "unit"]) -> dict[str, Tensor]:
    """Return a Gaussian direction, normalised choice by choice as Li et al. normalise filter by filter.

    ``"alpha"`` gives a choice's part the norm of its alpha, so that 1 is as far as alpha has come; ``"unit"`` gives it norm 1,
    the same for every method. The mean over the logits of a choice is taken out of the direction and of alpha first: softmax does
    not see it, and a regulariser may have made it large. It is drawn on the CPU: every device has the same direction.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1))
    direction = {}
    for label, logits in alpha.items():
        part = torch.randn(logits.numel(), generator=generator, dtype=torch.float64)
        part -= part.mean()
        centre = logits.detach().double().cpu()
        length = (centre - centre.mean()).norm() if normalise == "alpha" else 1.0
        direction[label] = (part / part.norm().clamp_min(1e-12) * length).to(logits)
    return direction


@torch.no_grad()
def over_plane(
    measure: Callable[[dict[str, Tensor]], Mapping[str, float]],
    alpha: ByLabel,
    directions: tuple[ByLabel, ByLabel],
    steps: Sequence[float],
) -> Iterator[list[Mapping[str, float]]]:
    """Yield for each b in ``steps`` the list of ``measure(alpha + a * first + b * second)`` for all a in ``steps``."""
    first, second = directions
    for b in steps:
        alphas = ({label: logits + a * first[label] + b * second[label] for label, logits in alpha.items()} for a in steps)
        yield [measure(point) for point in alphas]


def load_searcher(folder: Path, overrides: Sequence[str], plain: bool = False) -> Searcher:
    """Return a search as its checkpoint has it, with batches that are not augmented; nothing in the folder is changed.

    ``plain`` runs mixed operations one candidate at a time, whatever the search did.
    """
    options = load_options(search_options, folder / OPTIONS, overrides)
    more = [f"datasets:train:{key}={value}" for key, value in AS_STORED.items() if hasattr(options.datasets.train, key)]
    more += ["network_g:execution=plain"] * (plain and "execution" in options.network_g.arguments())
    options = load_options(search_options, folder / OPTIONS, [*overrides, *more])
    device = pick_device(options.num_gpu)
    state = load_tensors(folder / CHECKPOINT, device)
    searcher = build_searcher(options, device)
    with restoring(folder / CHECKPOINT):
        searcher.alpha.load_state_dict(state["alpha"])
        searcher.space.load_state_dict(state["space"])
    return searcher


def landscape(folder: Path, args: Namespace, steps: Sequence[float]) -> Iterator[list[Mapping[str, float]]]:
    """Yield ``loss``, and the metrics of a batch that the task has, over the plane: a list per step of the second direction.

    Every point is measured on the first batches of alpha's images, without augmentation. BatchNorm normalises by the batch, as in
    alpha's own steps: running statistics belong to one alpha alone. Nothing in the folder is changed.
    """
    searcher, task = load_searcher(folder, args.force_yml), find_task(read_run(folder).options.task)
    alpha = {label: logits.detach() for label, logits in searcher.alpha.by_label().items()}
    first, second = (random_direction(alpha, (args.seed, number), args.normalise) for number in (0, 1))
    return over_plane(_measure(searcher, args.batches, task), alpha, (first, second), steps)


def _measure(searcher: Searcher, count: int, task: Task) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    batches = [tuple(tensor.to(searcher.device) for tensor in searcher.validation.next()) for _ in range(count)]
    space, measures = searcher.space.train(), {"loss": searcher.objective.task, **task.metrics}
    # functional_call on clones: BatchNorm would change its running statistics at every point.
    state = {name: tensor.detach().clone() for name, tensor in (*space.named_parameters(), *space.named_buffers())}

    def measure(alpha: dict[str, Tensor]) -> dict[str, float]:
        weights = searcher.alpha.relax(searcher.relaxation, alpha)
        rows = []
        for images, target in batches:
            output = functional_call(space, state, (images, weights))
            rows.append({name: float(measure(output, target)) for name, measure in measures.items()})
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    return measure


def main(args: Namespace) -> int:
    """Run ``analyze landscape``: write ``landscape.json``, ``landscape.csv`` and ``landscape.png``; return the exit code.

    The points are ``args.grid`` steps up to ``args.radius`` along each direction. All searches of one space share the
    directions up to their norms.
    """
    if args.grid < 3 or args.grid % 2 == 0:
        raise UserError(f"--grid {args.grid}: an odd number of at least 3, so that alpha itself is among the points.")
    if args.batches < 1 or not 0 < args.radius < float("inf") or args.seed < 0:
        raise UserError("--batches is at least 1, --radius above 0 and --seed at least 0.")
    check_output(args.output)
    console, steps = Console(markup=False), np.linspace(-args.radius, args.radius, args.grid).tolist()
    for run in args.runs:
        read_run(run)
    folder: Path | None = None
    surfaces: dict[str, dict[str, Values]] = {}
    points: list[dict[str, Any]] = []
    for run in args.runs:
        search, plane = str(run) if run.resolve().name in surfaces else run.resolve().name, []
        with RunView(console, search, args.grid) as view:
            for number, row in enumerate(landscape(run, args, steps), start=1):
                plane.append(row)
                points += [{"search": search, "first": a, "second": steps[number - 1], **row[k]} for k, a in enumerate(steps)]
                folder = folder or open_output(args.output, "landscape")
                write_csv(folder / "landscape.csv", points)  # what there is, should the rest be stopped
                view.advance(number)
                view.message(f"{search}: row {number} of {args.grid}", f"time left {view.time_left}")
        surfaces[search] = {name: np.array([[point[name] for point in row] for row in plane]) for name in plane[0][0]}
    assert folder is not None
    unit = UNITS[args.normalise]
    searches: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, str]] = []
    for search, surface in surfaces.items():
        searches[search] = {name: values.tolist() for name, values in surface.items()} | {"summary": {}}
        for name, values in surface.items():
            summary = {"at_alpha": values[args.grid // 2, args.grid // 2], "mean": values.mean(), "std": values.std()}
            summary |= {"min": values.min(), "max": values.max()}
            searches[search]["summary"][name] = summary
            rows.append({"search": search, "quantity": name} | {key: f"{value:.4f}" for key, value in summary.items()})
    content = {"steps": steps, "unit": unit, "batches": args.batches, "seed": args.seed, "searches": searches}
    write_numbers(folder / "landscape.json", content)
    save(_figure(surfaces, steps, unit), folder / "landscape.png")
    Report(folder, rows).print(console)
    return 0


def _figure(surfaces: Mapping[str, Mapping[str, Values]], steps: Sequence[float], unit: str) -> Figure:
    """Draw a row per search and a column per quantity that all searches have, each column on one scale of colours."""
    names = [name for name in next(iter(surfaces.values())) if all(name in surface for surface in surfaces.values())]
    figure = new_figure(4.3 * len(names) + 0.3, 3.5 * len(surfaces) + 0.3)
    grid = figure.subplots(len(surfaces), len(names), sharex=True, sharey=True, squeeze=False)
    for column, name in enumerate(names):
        values = np.concatenate([surface[name].ravel() for surface in surfaces.values()])
        levels = MaxNLocator(15).tick_values(float(values.min()), float(values.max()))
        for row, (search, surface) in enumerate(surfaces.items()):
            axes = grid[row, column]
            filled = axes.contourf(steps, steps, surface[name], levels=levels, cmap="viridis")
            axes.contour(steps, steps, surface[name], levels=levels, colors="white", linewidths=0.4, alpha=0.6)
            axes.plot(0, 0, marker="+", markersize=11, markeredgewidth=2, color="white")
            x = f"first direction, {unit}" if row == len(surfaces) - 1 else ""
            style(axes, f"{search}: {name}", x, "" if column else "second direction", boxed=True)
            axes.set_aspect("equal")
            axes.locator_params(nbins=4)
        bar = figure.colorbar(filled, ax=grid[:, column].tolist(), shrink=0.9 / len(surfaces) ** 0.3, format="%.4g")
        bar.ax.tick_params(labelsize=9)
    return figure
