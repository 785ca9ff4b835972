"""The command ``latency``: a table of what each candidate of a search space adds to the time of a network on this device."""

from __future__ import annotations

import random
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from sr_nas.complexity.costs import LR_1280x720, cost_table
from sr_nas.complexity.latency import TRUSTED, agreement, machine, settings_of
from sr_nas.contracts import SearchSpace, SRNetwork
from sr_nas.errors import UserError
from sr_nas.genotype import WIDTH, Genotype
from sr_nas.inference.optimize import for_inference
from sr_nas.options.load import load_options
from sr_nas.report.plots import latency_figure, save
from sr_nas.runs.device import pick_device, wait_for
from sr_nas.runs.files import write_json
from sr_nas.task import find_task, search_options

Times = npt.NDArray[np.float64]
NOISY = 0.15
"""Spread of times, as :class:`Clock` has it, from which they are noise."""


def main(args: Namespace) -> int:
    """Run the command ``latency``; return its exit code."""
    options = load_options(search_options, args.opt, args.force_yml)
    if options.task != "super-resolution":
        raise UserError(f"latency is for networks of super-resolution; {args.opt} is of {options.task}.")
    if args.output.suffix != ".json":
        raise UserError(f"-o {args.output}: a table is a .json file; its plot is put beside it as .png.")
    for file in (args.output, args.output.with_suffix(".png")):
        if file.exists() and not args.overwrite:
            raise UserError(f"{file} exists; --overwrite replaces it.")
    if args.threads:
        torch.set_num_threads(args.threads)
    device, space = pick_device(options.num_gpu), find_task(options.task).space(options)
    how = {"engine": args.engine, "size": list(args.lr), "rounds": args.rounds, "clock": args.clock}
    table = measure_table(space, Clock(device, **how), args.networks, random.Random(args.seed))
    described = machine(str(device)) | {"threads": torch.get_num_threads()}
    write_json(args.output, {"machine": described, "how": how, "space": settings_of(space), **table})
    rows = table["check"]["networks"]
    save(latency_figure([(row["predicted"], row["measured"]) for row in rows]), args.output.with_suffix(".png"))
    for line in verdict(table, args.output):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


class Clock:
    """Times networks on a device, in turns, so that whatever slows the machine for a while slows them all.

    Args:
        device: where the networks run.
        engine: ``"torch"`` or ``"onnxruntime"``, as inference has them.
        size: width and height of the LR image.
        rounds: times that each network is run.
        clock: ``"wall"``, or ``"cpu"`` for the time of all cores that this process uses.

    Attributes:
        spread: interquartile range of the times of a network, relative to their median; the median over the networks, and of
            several calls of :meth:`measure` the largest. Of several networks, each time is first divided by the median of its
            round, in which they all ran.
    """

    def __init__(
        self, device: torch.device, engine: Any = "torch", size: Sequence[int] = (320, 180), rounds: int = 30, clock: str = "wall"
    ) -> None:
        self.device, self.engine, self.rounds, self.spread = device, engine, rounds, 0.0
        self.now = time.process_time if clock == "cpu" else time.perf_counter
        self._lr = torch.rand(1, 3, size[1], size[0], device=device)

    def measure(self, networks: Iterable[SRNetwork], title: str = "latency") -> Times:
        """Return milliseconds, ``[rounds, networks]``; the networks run in another order in each round."""
        console, steps = Console(stderr=True, markup=False, highlight=False), []
        progress = partial(track, console=console, transient=True, disable=not console.is_terminal)
        for network in progress(list(networks), f"{title}: networks"):
            prepared, _ = for_inference(network.eval().to(self.device), self.engine, self.device)
            steps.append(partial(prepared, self._lr))
        times, order = np.empty((self.rounds, len(steps))), list(range(len(steps)))
        with torch.inference_mode():
            started = time.perf_counter()
            for step in steps:  # warm-up
                step()
            wait_for(self.device)
            seconds = self.rounds * (time.perf_counter() - started)
            what = f"{len(steps)} network" + "s" * (len(steps) > 1)
            console.print(f"{title}: {what}, {self.rounds} times each: about {seconds:.0f} s", soft_wrap=True)
            for turn in progress(range(self.rounds), f"{title}: rounds"):
                random.Random(turn).shuffle(order)
                for index in order:
                    times[turn, index] = self._time(steps[index])
        # Beside the others of its round, a network is as slow as ever in a slow minute of the machine.
        compared = times / np.median(times, axis=1, keepdims=True) if len(steps) > 1 else times
        low, middle, high = np.percentile(compared, (25, 50, 75), axis=0)
        self.spread = max(self.spread, float(np.median((high - low) / middle)))
        return times

    def _time(self, step: Callable[[], object]) -> float:
        wait_for(self.device)
        start = self.now()
        step()
        wait_for(self.device)
        return 1e3 * (self.now() - start)


def latency_of(networks: Sequence[SRNetwork], rounds: int = 30) -> tuple[list[float], float]:
    """Return milliseconds of networks of one scale on this device, for an HR output of 1280x720, and their relative spread.

    The spread is that of :class:`Clock`; each time is the median over the rounds.
    """
    height, width = LR_1280x720
    scale = networks[0].scale
    clock = Clock(pick_device("auto"), size=(round(width / scale), round(height / scale)), rounds=rounds)
    return np.median(clock.measure(networks), axis=0).tolist(), clock.spread


def measure_table(space: SearchSpace, clock: Clock, count: int, draw: random.Random) -> dict[str, Any]:
    """Measure each candidate in its place of a reference network, and random networks to see what the sum of them is worth.

    The reference, one for each width, has the candidate of middle multiply-adds for each label. What another candidate adds is
    the median over the rounds of the time of the network with this one swapped, less that of the reference in the same round.
    Labels whose candidates are the same modules are swapped together, and share what that adds.

    Raises:
        UserError: the times of one and the same network differ too much to tell candidates apart.
    """
    choices, macs, sites = space.choices(), cost_table(space, "macs_hr"), space.cost_sites()
    labels = [label for label in macs if label != WIDTH]
    widths = choices[WIDTH].candidates if WIDTH in choices else ("",)
    middle: dict[str, str] = {}
    alike: dict[Any, list[str]] = {}
    for label in labels:
        own = sites[label]
        alike.setdefault(own if isinstance(own, tuple) else tuple(own.values()), []).append(label)
        costs = macs[label] if macs[label].ndim == 1 else macs[label][0]
        middle[label] = choices[label].candidates[int(costs.argsort()[len(costs) // 2])]

    def network(picks: Mapping[str, str]) -> Genotype:
        others = {label: torch.ones(len(choice.candidates)) for label, choice in choices.items()}
        for label, name in picks.items():
            if label in choices:
                others[label] = torch.eye(len(others[label]))[choices[label].candidates.index(name)]
        return space.decode(others)

    def times_of(picks: Sequence[Mapping[str, str]], title: str) -> Times:
        return clock.measure((cast(SRNetwork, space.derive(network(pick))) for pick in picks), title)

    swaps = [
        (width, same, name)
        for width in widths
        for same in alike.values()
        for name in choices[same[0]].candidates
        if name != middle[same[0]]
    ]
    references = [{**middle, WIDTH: width} for width in widths]
    times = times_of(
        [*references, *({**middle, WIDTH: width} | dict.fromkeys(same, name) for width, same, name in swaps)], "candidates"
    )
    table = {(label, width): {middle[label]: 0.0} for label in labels for width in widths}
    for column, (width, same, name) in enumerate(swaps, len(widths)):
        more = float(np.median(times[:, column] - times[:, widths.index(width)])) / len(same)
        table |= {(label, width): table[label, width] | {name: more} for label in same}
    picks = [
        {label: draw.choice(choices[label].candidates) for label in labels} | {WIDTH: draw.choice(widths)} for _ in range(count)
    ]
    measured = np.median(times_of(picks, "check"), axis=0).tolist()
    if clock.spread > NOISY:
        raise UserError(
            f"nothing is written: the times of one and the same network spread by {clock.spread:.0%}, so that they do not tell "
            "candidates apart. Does other work run on this machine? Measure when it is idle, or with --clock cpu."
        )
    reference = dict(zip(widths, np.median(times[:, : len(widths)], axis=0).tolist(), strict=True))
    predicted = [reference[pick[WIDTH]] + sum(table[label, pick[WIDTH]][pick[label]] for label in labels) for pick in picks]
    factor, offset, quality = agreement(predicted, measured)
    rows = [
        {"genotype": network(pick).to_json(), "predicted": factor * guess + offset, "measured": time}
        for pick, guess, time in zip(picks, predicted, measured, strict=True)
    ]
    least = {width: sum(min(table[label, width].values()) for label in labels) for width in widths}
    frames = {width: factor * (reference[width] + least[width]) + offset for width in widths}

    def added(label: str, width: str) -> dict[str, float]:
        row = table[label, width]
        return {name: factor * (row[name] - min(row.values())) for name in choices[label].candidates}

    several = WIDTH in choices
    candidates: dict[str, Any] = {
        label: {width: added(label, width) for width in widths} if several else added(label, "") for label in labels
    }
    return {
        "fixed": 0.0 if several else frames[""],
        "candidates": ({WIDTH: frames} if several else {}) | candidates,
        "check": quality | {"spread": clock.spread, "factor": factor, "offset": offset, "networks": rows},
    }


def verdict(table: Mapping[str, Any], file: Path) -> list[str]:
    """Return lines on how far a table can be trusted."""
    check, times = table["check"], [row["measured"] for row in table["check"]["networks"]]
    lines = [
        f"{len(times)} random networks of {min(times):.1f} to {max(times):.1f} ms, each predicted by a fit to the others:",
        f"mean error {check['mean_error']:.1%}, worst {check['worst']:.1%}, within 10 % {check['within_10_percent']:.0%}, "
        f"Spearman {check['spearman']:.3f}; times of one network spread by {check['spread']:.1%}",
    ]
    if check["spearman"] < TRUSTED:
        lines.append(f"latency_ms cannot be trusted here: below a Spearman correlation of {TRUSTED} a search refuses the table")
    return [*lines, f"written to {file}, and a plot beside it"]
