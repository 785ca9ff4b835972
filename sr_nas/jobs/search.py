"""A search, from its options to a genotype in a run folder."""

from __future__ import annotations

import copy
import math
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sr_nas.complexity.memory import extrapolated_peak
from sr_nas.errors import UserError, parse_json, short
from sr_nas.export.network_file import write_tensors
from sr_nas.genotype import NETWORK_BLOCK, Choices, Genotype
from sr_nas.jobs.latency import Clock
from sr_nas.jobs.run import Run, less_memory
from sr_nas.options.load import dump_yaml, load_options
from sr_nas.options.sections import AnySearch
from sr_nas.report.page import FRONT, LiveReport
from sr_nas.report.progress import (
    DRAW,
    SearchView,
    Sinks,
    clarity,
    decision,
    macs,
    numbers,
    selection,
    stopped,
    truth,
    wanted_sinks,
)
from sr_nas.runs.device import available_memory, check_precision, peak_memory, pick_device
from sr_nas.runs.distributed import GracefulShutdown, is_first, processes, world_size
from sr_nas.runs.files import write_json, write_text
from sr_nas.runs.run_dir import (
    CHECKPOINT,
    append_history,
    cut_history,
    read_history,
    refuse_non_finite,
    save_checkpoint,
)
from sr_nas.search.budget import Cost, decode_picks, front
from sr_nas.search.searcher import Record, Searcher
from sr_nas.task import Task, build_searcher, find_task, network_costs, search_options, with_candidates_kept

GENOTYPE, INHERITED = "genotype.json", "inherited.safetensors"
ADVICE = "Lower train.optim_g.lr or search.alpha.optim.lr, or set train.grad_clip_norm."
# Bytes, and a factor on those of tensors, for what libraries allocate besides. Fitted to steps of IMDN and DLSR spaces of one
# thread on one machine, the worst of which lies 18 % off. Devices that are not here allocate nothing that is known.
LIBRARIES = {"cpu": (36e6, 1.3)}
KNOWN, DRIFT = 3, 0.03
"""Networks of a table of latency that are timed again, and from which relative change of their times on it is reported."""


def main(args: Namespace) -> int:
    """Run the command ``search``; return its exit code."""
    with processes():
        options = load_options(search_options, args.opt, args.force_yml)
        return run_search(options, Console(), args.auto_resume, args.front, args.until)[1]


def run_search(
    options: AnySearch, console: Console, auto_resume: bool = False, budgets: Sequence[float] = (), until: int | None = None
) -> tuple[Path, int]:
    """Search, or resume a search; each of several processes calls this, within :func:`sr_nas.runs.distributed.processes`.

    Args:
        options: checked options.
        console: where the first process shows progress.
        auto_resume: resume the newest run of this name, where there is one.
        budgets: to print the best network of, in the unit of the front's cost.
        until: epoch to stop after, as a signal would; by default the last one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the search.

    Raises:
        UserError: something that the options ask for is missing, or the search has diverged.
    """
    options, device = with_candidates_kept(options), pick_device(options.num_gpu)
    check_precision(device, options.train.precision)
    wanted_sinks(options.logger)
    with Run.create_or_resume(options, auto_resume, until) as run:
        code = _search(run, options, device, console if is_first() else Console(quiet=True, force_terminal=False), budgets)
        return run.folder, code


def _search(run: Run, options: AnySearch, device: torch.device, console: Console, budgets: Sequence[float]) -> int:
    # Everything is built, and thereby checked, before there is a folder.
    task = find_task(options.task)
    images = task.images(options)
    searcher = build_searcher(options, device, run.initial_world_size, images)
    memory = check_memory(searcher, options, run.batch // world_size())
    costs = reachable(searcher.space, task, searcher.budgets)
    run.take_threads(device.type == "cpu", searcher, lambda: searcher.step < searcher.steps and searcher.take_step())

    run.open(device, images.sizes)
    run.restore(searcher.load_state_dict, searcher.state_dict())
    recorder = Recorder(run, searcher, task)
    recorder.begin()
    choices, start, logger = searcher.space.choices(), searcher.step, options.logger
    with (
        closing(recorder.sinks),
        SearchView(console, run.folder.name, searcher.steps, start, logger.print_freq, searcher.plan.epochs) as view,
        GracefulShutdown() as stop,
    ):
        begins = f"{run.begins('searching', str(device))}, step {start} of {searcher.steps}{memory}"
        graphs = [f"steps are not recorded as CUDA graphs: {searcher.not_recorded}"] * bool(searcher.not_recorded)
        alpha = ["alpha stays as it starts: search.relaxation does not depend on it"] * (not searcher.learns_alpha)
        run.say(view, *run.notes, begins, *graphs, *alpha, *[f"networks of this space have {range_of(costs)}"] * bool(costs))
        recorder.view, recorder.stop = view, stop
        ended = run.until is not None and run.until * searcher.plan.steps_per_epoch <= start < searcher.steps
        if ended or not searcher.run(recorder.on_step, recorder.on_epoch, recorder.between_steps):
            run.say(view, f"stopped at step {searcher.step}, saved in {run.folder}. --auto_resume goes on from there.")
            recorder.report.write()
            return stop.exit_code
        if not is_first():
            return 0
        write_results(run.folder, searcher, task, [Path(file).name for file in options.plugin or ()])
        lines = outcome(run.folder, choices) + write_front(run.folder, searcher, costs, budgets)
        recorder.report.write()
        if "latency_ms" in searcher.budgets and options.search.latency_table:
            genotype, cost = selected(run.folder), searcher.budgets["latency_ms"]
            table, predicted = Path(options.search.latency_table), cost.of(genotype, choices)
            lines += measured_latency(table, searcher.space, genotype, device, predicted, cost.limit)
        run.log.info("%s", "\n".join(lines))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
    return 0


class Recorder:
    """Writes history, log and checkpoints of a search while it runs; the first process does, for all.

    Attributes:
        view: shows the search.
        stop: whether a signal asks it to stop.
    """

    view: SearchView
    stop: GracefulShutdown

    def __init__(self, run: Run, searcher: Searcher, task: Task) -> None:
        self.run, self.searcher, self.task = run, searcher, task
        self.frequency = run.options.logger.save_checkpoint_freq or searcher.plan.steps_per_epoch
        self.sinks = Sinks(run.folder if is_first() else None, run.options, searcher.step)
        self.report = LiveReport(run.folder if is_first() else None, searcher.space)
        self._complexity = cache(self._complexity_of)

    def begin(self) -> None:
        """Write the record and the checkpoint of the start, or drop the records after the checkpoint that is resumed."""
        if is_first() and self.run.state is None:
            append_history(self.run.folder, self.searcher.record(0) | self._complexity(self.searcher.genotype()))
            save_checkpoint(self.run.folder / CHECKPOINT, self.searcher.state_dict())
        elif is_first():
            searcher = self.searcher
            cut_history(self.run.folder, searcher.step, range(0, searcher.steps + 1, searcher.plan.steps_per_epoch))
            read_history(self.run.folder, self.searcher.space.choices())  # a damaged one is found now and not at the end

    def on_step(self, losses: Mapping[str, Any]) -> None:
        """Show a finished step, and after the last one how the network is selected, which may take as long as an epoch."""
        self.view.step(self.searcher.step, losses)
        kind = cast(AnySearch, self.run.options).search.selection.type
        if self.searcher.step == self.searcher.steps and kind != "argmax":
            self.run.say(self.view, f"selecting the network: {kind}")

    def on_epoch(self, record: Record) -> None:
        """Write the history record of a finished epoch."""
        if is_first():
            record |= self._complexity(Genotype.from_json(record["genotype"]))
            record["memory_bytes"] = peak_memory(self.searcher.device)
            append_history(self.run.folder, record)
            self.run.log.info("epoch %d %s %s", record["epoch"], record["loss"], record["genotype"]["genotype"])
            for text in selection(record):
                self.run.log.info("selected %s", text)
            for text in stopped(record):
                self.run.log.info("%s", text)
            self.sinks.write(record["step"], numbers(record))
            self.view.epoch(record)
            self.report.write_if_due()

    def between_steps(self) -> bool:
        """Save a checkpoint where one is due; return whether to stop."""
        searcher = self.searcher
        stopping = self.stop.agreed() or searcher.step == (self.run.until or 0) * searcher.plan.steps_per_epoch
        if stopping or searcher.step % self.frequency == 0 or searcher.step == searcher.steps:
            searcher.read_losses()  # in every process: state_dict(), which reads them too, is called in the first alone
            refuse_non_finite(searcher.space, ADVICE)
            refuse_non_finite(searcher.alpha, ADVICE)
            if is_first():
                self.sinks.flush()
                save_checkpoint(self.run.folder / CHECKPOINT, searcher.state_dict())
        return stopping

    def _complexity_of(self, genotype: Genotype) -> dict[str, Any]:
        # Building a network draws initial weights, which must not change the random numbers of the search.
        with torch.random.fork_rng(devices=[]):
            return self.task.complexity_of(self.searcher.space.derive(genotype))


def write_results(folder: Path, searcher: Searcher, task: Task, plugins: Sequence[str] = ()) -> None:
    """Write the genotype, the option block that trains it, and the weights that it inherits from the supernet.

    ``plugins`` are the names of files in the folder that the block needs.
    """
    genotype = selected(folder)
    block = task.network_block(searcher.space.derive(genotype)) | ({"plugin": list(plugins)} if plugins else {})
    size = {key: value for key, value in block["network_g"].items() if key != "genotype"}
    write_json(folder / GENOTYPE, genotype.to_json() | {"network_g": size})
    write_text(
        folder / NETWORK_BLOCK,
        "# The searched network, for the option file of its training: copy it, or inherit it with _base_.\n" + dump_yaml(block),
    )
    inherited = {name: tensor.detach().cpu().contiguous() for name, tensor in searcher.space.inherited(genotype).items()}
    write_tensors(folder / INHERITED, inherited)


def selected(folder: Path) -> Genotype:
    """Return the network that a search ended with, as its last record has it."""
    return Genotype.from_json(read_history(folder)[-1]["genotype"])


def outcome(folder: Path, choices: Choices) -> list[str]:
    """Return lines on the result of a finished search: the genotype, how clear each choice is, and the network's cost."""
    history = read_history(folder)
    last, margins = history[-1], decision(history, choices)
    genotype = Genotype.from_json(last["genotype"])
    times = f", {margins.final_spread / margins.initial_spread:.0f} times as much" if margins.initial_spread else ""
    memory = f", {last['memory_bytes'] / 1e9:.2f} GB of memory at most" if "memory_bytes" in last else ""
    rows = clarity(history, choices)
    draws = sum(row[-1] == "a draw" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"genotype  {genotype.arch}: what is kept, its beta (the weakest of several), its lead over the rest, an even draw",
        *("          " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        f"network   {last['params']:,} parameters; " + "; ".join(f"{name} {value}" for name, value in macs(last, 2).items()),
        *(f"{'truth':<10}{name} {known}" for name, known in truth(last).items()),
        f"alpha     spread within a choice {margins.initial_spread:.4f} at the start, {margins.final_spread:.4f} now{times}",
        *[f"selected  {text}" for text in selection(last)],
        *[f"ended     {text}" for text in stopped(last)],
        *[f"undecided {draws} of {len(margins.margin)} choices lead by less than {DRAW:.0%} of an even draw"] * (draws > 0),
        f"took      {sum(record['seconds'] for record in history):.0f} s{memory}",
        f"all of it {folder}",
    ]


def check_memory(searcher: Searcher, options: AnySearch, batch_size: int) -> str:
    """Return a clause on the memory that a search needs and that there is; empty where the task has no estimate.

    Args:
        searcher: before its first step.
        options: that it was built from.
        batch_size: samples of this process's share of a batch.

    Raises:
        UserError: there is less, with advice.
    """
    probe = find_task(options.task).probe(options, batch_size)
    if probe is None:
        return ""
    needed, available = needed_memory(searcher, *probe), available_memory(searcher.device)
    if searcher.device.type == "cpu":
        available //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this machine share it
    if needed > available:
        has = f"{searcher.device} has {_size(available)}"
        raise UserError(f"a step of this search needs about {_size(needed)}, and {has}. To take less, {less_memory(options)}.")
    return f", needs about {_size(needed)} of {_size(available)} available"


def needed_memory(searcher: Searcher, x: Tensor, target: Tensor, pixels: int) -> int:
    """Return about the most bytes that a search adds to what this process takes now: tensors and :data:`LIBRARIES`."""
    fixed, factor = LIBRARIES.get(searcher.device.type, (0, 1))
    return round(fixed + factor * step_bytes(searcher, x, target, pixels))


def step_bytes(searcher: Searcher, x: Tensor, target: Tensor, pixels: int) -> int:
    """Return the most bytes that tensors of a search step take beside the supernet's weights, optimizer states included.

    An alpha step, the larger part of a step, is run on a tiny batch and leaves nothing behind; or where alpha takes none,
    the passes of a weight step.

    Args:
        searcher: with its supernet on its device.
        x: input of the tiny batch.
        target: of the tiny batch.
        pixels: input pixels of a real batch (:meth:`sr_nas.task.Task.probe`).
    """
    space, alpha = searcher.space.train(), searcher.alpha
    x, target = x.to(searcher.device), target.to(searcher.device)
    training = x.clone(), target.clone()
    gradients = {parameter: parameter.grad for parameter in alpha.parameters()}

    def step() -> None:
        if searcher.learns_alpha:
            searcher.alpha_gradient((x, target), training)
        else:
            context = searcher.context((x, target), training)
            loss = context.task({}, training, alpha.relax(context.relaxation))
            torch.autograd.grad(loss, list(space.parameters()), allow_unused=True)

    with torch.random.fork_rng(devices=[]):
        weights = [*space.parameters(), *space.buffers(), *alpha.parameters()]
        peak = extrapolated_peak(step, pixels, weights, [x, target, *training])
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    # A copy of the optimizer takes a step, to see what state it keeps for each weight.
    optimizer = copy.deepcopy(searcher.weight_optimizer)
    for parameter in (parameters := [weight for group in optimizer.param_groups for weight in group["params"]]):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = [value for value in tree_leaves(list(optimizer.state.values())) if isinstance(value, Tensor)]
    return peak + sum(tensor.numel() * tensor.element_size() for tensor in (*parameters, *state))


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def reachable(space: Any, task: Task, budgets: Mapping[str, Cost] | None = None) -> dict[str, Cost]:
    """Return the costs of the whole networks of a space, those of ``budgets`` first; none of a cost that does not add up."""
    costs, others = dict(budgets or {}), [name for name in task.costs if name not in (budgets or {})]
    with suppress(UserError):  # of spaces whose network keeps some of its choices alone
        costs |= network_costs(space, dict.fromkeys(others, math.inf))
    return costs


def range_of(costs: Mapping[str, Cost]) -> str:
    """Return what the networks of a space cost at least and at most, as text."""
    return ", ".join(f"{name} {short(cost.least)} to {short(cost.most)}" for name, cost in costs.items())


def extremes(space: Any, task: Task) -> list[dict[str, Any]]:
    """Return for each cost its name, ``least`` and ``most``, and the genotypes ``cheapest`` and ``dearest``, JSON-ready."""
    even, rows = {label: torch.ones(len(choice.candidates)) for label, choice in space.choices().items()}, []
    for name, cost in reachable(space, task).items():
        ends = {
            key: decode_picks(space, even, cost.extreme(dearest)).to_json()
            for key, dearest in (("cheapest", False), ("dearest", True))
        }
        rows.append({"cost": name, "least": cost.least, "most": cost.most, **ends})
    return rows


def write_front(folder: Path, searcher: Searcher, costs: Mapping[str, Cost], budgets: Sequence[float]) -> list[str]:
    """Write the networks that no other beats in cost and in sum of log beta, as JSON; return lines on some budgets.

    Nothing is written where the costs of a space do not add up. The first cost counts, the others are stated.
    """
    if not costs:
        return []
    name, cost = next(iter(costs.items()))
    with torch.no_grad():
        weights, choices = searcher.beta(), searcher.space.choices()
        networks: list[dict[str, Any]] = [
            {other: each.of(network.genotype, choices) for other, each in costs.items()}
            | {"log_beta": network.log_beta, "genotype": network.genotype.to_json()}
            for network in front(searcher.space, weights, [replace(cost, limit=math.inf)])
        ]
    write_json(folder / FRONT, {"cost": name, "networks": networks})
    lines = []
    for budget in budgets:
        within = [network for network in networks if network[name] <= budget]
        best = f"{short(within[0][name])}, {Genotype.from_json(within[0]['genotype'])}" if within else "none"
        lines.append(f"front     {name} up to {short(budget)}: {best}")
    return lines


def measured_latency(
    table: Path, space: Any, genotype: Genotype, device: torch.device, predicted: float, limit: float
) -> list[str]:
    """Time a network as the candidates of a table were timed; return lines on it, on what was predicted, and the budget.

    Networks of which the table has the time are run in turns with it, and tell whether the machine is as quick as it was then.
    """
    content = parse_json(table.read_bytes(), table)
    known = content["check"]["networks"][:KNOWN]
    genotypes = [genotype, *(Genotype.from_json(row["genotype"]) for row in known)]
    clock = Clock(device, **content["how"])
    time, *again = np.median(clock.measure(map(space.derive, genotypes)), axis=0).tolist()
    slower = median(now / row["measured"] for now, row in zip(again, known, strict=True))
    lines = [f"latency   {time:.4g} ms measured (spread {clock.spread:.0%}), {predicted:.4g} predicted, budget {limit:.4g}"]
    if abs(slower - 1) > DRIFT:
        now = f"{len(known)} networks of {table.name} take {slower:.2f} times what they took when it was made"
        lines.append(f"          {now}; by that measure this one takes {time / slower:.4g} ms")
    if (threads := torch.get_num_threads()) != content["machine"]["threads"]:
        lines.append(f"          measured by {threads} threads, the table by {content['machine']['threads']}")
    return lines
