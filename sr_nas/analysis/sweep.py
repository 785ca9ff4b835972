"""The command ``sweep``: searches or trainings over options, seeds or the networks of a front, all or by successive halving."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import yaml
from rich.console import Console

from sr_nas.analysis.contenders import Contender, read_contenders
from sr_nas.analysis.sweep_results import write_results
from sr_nas.analysis.sweep_settings import (
    COSTS,
    NETWORK,
    QUANTITIES,
    Axes,
    Done,
    more_is_better,
    pick,
    quantities_of,
    short_keys,
    trials_of,
)
from sr_nas.contracts import Classifier, SRNetwork
from sr_nas.errors import UserError, nearest, shortened
from sr_nas.jobs.trials import Processes, SweepView, Trial, Workers, open_sweep, run_trials
from sr_nas.options.load import OptionLoader, check_options, load_options, parse_yaml, read_options
from sr_nas.options.sections import AnySearch, AnyTraining
from sr_nas.report.progress import duration
from sr_nas.report.tables import Table
from sr_nas.runs.device import cores, omp_threads, pick_device, use_threads
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.task import build_searcher, build_trainer, build_training, search_options, training_options

EXAMPLES = ["loss_task", "gap_worst", "params", "cifar10_test", "Set5_psnr", "seconds"]
METRICS = {SRNetwork.task: ("psnr", "ssim"), Classifier.task: ("top1", "top5")}
"""Task -> scores of its trainings."""
NOTED = 0.2
"""Share of the start in the moving average from which a halving's first rung is said to compare little."""


@dataclass(frozen=True)
class Setting:
    """A point of the grid: its values as the user wrote them, and a trial for each seed."""

    values: tuple[str, ...]
    trials: tuple[Trial, ...]


class Plan(NamedTuple):
    """All that a sweep runs: its folder, axes and settings, and remarks on its networks."""

    folder: Path
    axes: Axes
    settings: list[Setting]
    notes: Sequence[str] = ()

    @property
    def trials(self) -> list[Trial]:
        return [trial for setting in self.settings for trial in setting.trials]


@dataclass
class Course:
    """How far a sweep has come: name -> message of the trials that failed, and what each rung of a halving kept."""

    failed: dict[str, str] = field(default_factory=dict)
    rungs: list[dict[str, Any]] = field(default_factory=list)


def main(args: Namespace) -> int:
    """Run or go on with a sweep and write its table; return 0, or 128 plus the signal that stopped it.

    Raises:
        UserError: an option of some trial is wrong, before the first is begun; or trials failed, after the others have ended.
    """
    console = Console(markup=False, highlight=False)
    with each_warning_once():
        plan = make_plan(args)
    first = plan.trials[0]
    check_quantities(args, first)
    steps = rungs(first, len(plan.settings), args.halving) if args.halving else [first.length]
    decay = getattr(first.options.train, "ema_decay", 0.0)
    if args.halving and (start := decay ** max(steps[0] - 1, 0)) > NOTED:
        console.print(
            f"after {steps[0]} iterations {start:.0%} of the moving average is its start, so the first rung compares little: "
            f"lower train.ema_decay ({decay}), or take fewer settings or longer trainings.",
            soft_wrap=True,
        )
    work = sum(count * share for count, share in _rounds(plan, steps, args.halving))
    if args.dry:
        estimate(plan, work, args, console)
        return 0
    with open_sweep(plan.folder) as held:
        workers = _workers(args, plan.folder, len(plan.trials), held)  # before signals are taken, of which Ray takes some
        console.print(f"{trials_of(len(plan.trials))} in {plan.folder}, {workers.count} at a time", soft_wrap=True)
        with GracefulShutdown() as stop, SweepView(console, work) as view:
            course = carry_out(plan, steps, args.halving, args.by, workers, view, stop)
        if stop():
            console.print("stopped; the same command goes on.")
            return stop.exit_code
    write_results(plan.folder, _results(plan, course, steps), plan.axes, args.show, args.by, about(args, course, plan), console)
    if course.failed:
        names = ", ".join(course.failed)
        first = next(trial for trial in plan.trials if trial.name in course.failed)
        alone = shlex.join(["sr-nas", *first.words(first.length)])
        raise UserError(
            f"{len(course.failed)} of {len(plan.trials)} trials failed: {names}. "
            f"The same command tries them again; one alone: {alone}"
        )
    return 0


def check_quantities(args: Namespace, trial: Trial) -> None:
    """Raise UserError where trials will not have a quantity of ``--show`` or ``--by``, as far as its name tells."""
    options, pattern, examples = trial.options, QUANTITIES, EXAMPLES
    if isinstance(options, AnyTraining):
        sets, metrics = options.datasets.validation(), METRICS[options.task]
        scores = rf"(({'|'.join(map(re.escape, sets))})_)?({'|'.join(metrics)})|" if sets else ""
        pattern = rf"{scores}loss_(train|distill)|{COSTS}"
        examples = [*(f"{title}_{metric}" for title in sets for metric in metrics), "loss_train", "params", "latency_ms"]
    for name in [*args.show, *([args.by] if args.by else [])]:
        if not re.fullmatch(pattern, name):
            raise UserError(
                f"there is no quantity '{name}'{nearest(name, examples)} There are for example: {', '.join(examples)}."
            )
    if args.halving and args.by and re.fullmatch(COSTS, args.by):
        raise UserError(f"--by {args.by}: a halving compares scores or losses, no costs.")


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Let option files be read many times, and what is to say on them be said once."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        new = record.getMessage() not in seen
        seen.add(record.getMessage())
        return new

    logger = logging.getLogger(load_options.__module__)
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def make_plan(args: Namespace) -> Plan:
    """Check the options of every trial of a sweep, before the first is begun.

    A trial is called ``<name>-nu0.25-mu1e6_seed0``, after :func:`sr_nas.analysis.sweep_settings.short_keys`; without ``--seeds``
    it has the option file's own seed. All lie in the folder ``<name>_sweep``.

    Raises:
        UserError: an option that is wrong in one of them, or two trials that would have one name.
    """
    axes = read_axes(args.grid)
    model: Any = search_options if "search" in read_options(Path(args.opt)) else training_options
    if args.front and model is search_options:
        raise UserError(f"--front trains networks: {args.opt} is the option file of a search, name one of a training.")
    # A front or an axis may replace what the option file names: only the trials' files need be there.
    options = load_options(model, args.opt, args.force_yml, check_files=False)
    contenders: Sequence[Contender | None] = [None]
    notes: list[str] = []
    if args.front:
        contenders, notes = read_contenders(args.front, options, args.best or 9, args.random)
        if keys := [key for key in axes if key.partition(":")[0] in contenders[0].block]:
            raise UserError(f"--grid {keys[0]}: with --front the network is that of the search.")
    title = f"{_word(args.front.resolve().name)}-{options.name}" if args.front else options.name
    folder = Path(options.path.experiments_root) / f"{title}_sweep"
    overrides = [*args.force_yml, f"path:experiments_root={json.dumps(str(folder))}"]
    points = list(_points(axes, None if args.front else args.random))
    settings, names = [], set()
    for contender, values in product(contenders, points):
        network = () if contender is None else (contender.name,)
        stem = "-".join([title, *network, *map("".join, zip(short_keys(axes), map(_word, values), strict=True))])
        names.add(stem)
        point = [*overrides, *(f"{key}={value}" for key, value in zip(axes, values, strict=True))]
        trials = []
        for seed in [None] if args.seeds is None else args.seeds:
            own = [f"name={stem}"] if seed is None else [f"name={stem}_seed{seed}", f"manual_seed={seed}"]
            checked = load_options(model, args.opt, [*point, *own], check_files=contender is None)
            if contender is not None:
                raw = checked.model_dump(mode="json", exclude_none=True) | dict(contender.block)
                checked = check_options(type(checked), raw, args.opt)
            trials.append(Trial(checked))
        settings.append(Setting((*network, *values), tuple(trials)))
    if len(names) < len(settings):
        raise UserError("two trials would have one name: values must differ in letters, digits or . + -")
    if len(lengths := {trial.length for setting in settings for trial in setting.trials}) > 1 and args.halving:
        raise UserError(f"--halving compares trials of one length, and these have {', '.join(map(str, sorted(lengths)))}.")
    networks = {NETWORK: [contender.name for contender in contenders if contender]} if args.front else {}
    return Plan(folder, networks | axes, settings, notes)


def _word(text: str) -> str:
    """Return a text as a part of names: of the characters that these may have, and not long."""
    word = re.sub(r"[^A-Za-z0-9._+-]+", "_", text)
    return word if len(word) <= 40 else f"{word[:31]}_{crc32(text.encode()):08x}"


def read_axes(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read texts ``key=value,value,...``; the values are YAML.

    Raises:
        UserError: a text of another form, a key or a value that is given twice, or the seed or the name, which are not swept.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        flow = f"[{values}]"
        parse_yaml(flow, f"--grid {shortened(text)}")
        node = yaml.compose(flow, Loader=OptionLoader)
        if not equals or not key or not isinstance(node, yaml.SequenceNode) or not node.value:
            raise UserError(f"--grid '{text}': the form is key=value,value,..., for example search:regularizer:nu=0,0.25,1.")
        if key in ("name", "manual_seed") or key.startswith("path"):
            raise UserError(f"--grid {key}: every trial has a name and a folder of its own; seeds are given by --seeds.")
        if key in axes:
            raise UserError(f"--grid: an option is given twice: {key}.")
        # The marks cut out what the user wrote: 1e6 stays 1e6 in names and tables.
        axes[key] = [flow[item.start_mark.index : item.end_mark.index].strip() for item in node.value]
        if len(set(axes[key])) < len(axes[key]):
            raise UserError(f"--grid '{text}': a value is given twice.")
    return axes


def _points(axes: Axes, count: int | None) -> Iterator[tuple[str, ...]]:
    """Yield the points of a grid, the last axis fastest; or so many of them, drawn at random, the same in every call."""
    total = math.prod(map(len, axes.values()))
    chosen: Sequence[int] = range(total)
    if count is not None:
        if count > total:
            raise UserError(f"--random {count}: the grid has {total} points.")
        chosen = sorted(np.random.default_rng(0).choice(total, count, replace=False).tolist())
    sizes = [len(values) for values in axes.values()]
    for number in chosen:
        places = np.unravel_index(number, sizes) if sizes else ()
        yield tuple(values[int(place)] for values, place in zip(axes.values(), places, strict=True))


def rungs(trial: Trial, settings: int, factor: int) -> list[int]:
    """Return the epochs or iterations at which a halving by ``factor`` compares (Jamieson & Talwalkar 2016), the last the end.

    There are as many as leave one setting at the end. Each rung trains ``factor`` times as long as the one before, and ends where
    a training validates.

    Raises:
        UserError: the first rung would be shorter than one validation, or there are fewer settings than ``factor``.
    """
    count = int(math.log(settings, factor) + 1e-9)
    lengths = [trial.length / factor**power for power in range(count, -1, -1)]
    search = isinstance(trial.options, AnySearch)
    every = 1 if isinstance(trial.options, AnySearch) else trial.options.val.val_freq
    if not count:
        raise UserError(f"--halving {factor} needs {factor} settings at least, and there are {settings}.")
    if lengths[0] < every:
        need = f"{factor**count} epochs at least" if search else f"a val.val_freq of {int(lengths[0])} or less"
        raise UserError(
            f"--halving {factor} compares {settings} settings first after {lengths[0]:.4g} of {trial.length} "
            f"{'epochs' if search else 'iterations'}: it needs {need}, or fewer settings."
        )
    return [math.ceil(length / every - 1e-9) * every for length in lengths[:-1]] + [trial.length]


def _rounds(plan: Plan, steps: Sequence[int], factor: int | None) -> Iterator[tuple[int, float]]:
    """Yield the number of trials of each rung, and which share of a whole trial it is for each."""
    kept, before = len(plan.settings), 0
    for until in steps:
        yield kept * len(plan.settings[0].trials), (until - before) / max(steps[-1], 1) or 1.0
        kept, before = max(kept // factor, 1) if factor else kept, until


def carry_out(
    plan: Plan,
    steps: Sequence[int],
    factor: int | None,
    by: str | None,
    workers: Workers,
    view: SweepView,
    stop: GracefulShutdown,
) -> Course:
    """Run all trials; with a ``factor``, of each rung only the best settings go on, judged by the mean of their seeds."""
    course, alive = Course(), plan.settings
    for until, (_, each) in zip(steps, _rounds(plan, steps, factor), strict=True):
        trials = [trial for setting in alive for trial in setting.trials if trial.name not in course.failed]
        # Without a halving, trials may differ in length.
        for length in {until if factor else trial.length for trial in trials}:
            some = [trial for trial in trials if factor or trial.length == length]
            course.failed |= run_trials(some, length, each, workers, view, stop)
        if stop() or not factor:
            break
        scores: dict[int, float] = {}
        for place, setting in enumerate(alive):
            values = [quantities_of(trial, until) for trial in setting.trials if trial.name not in course.failed]
            if values:
                name = pick(by, values[0])
                scores[place] = float(np.mean([numbers[name] for numbers in values]))
        if not scores:
            break
        order = sorted(scores, key=scores.__getitem__, reverse=more_is_better(name))
        rung = {"until": until, "by": name, "scores": {alive[place].trials[0].name: scores[place] for place in order}}
        order = order[: max(len(alive) // factor, 1)]
        course.rungs.append(rung)
        if until != steps[-1]:
            alive = [alive[place] for place in sorted(order)]
            view.say(f"after {until}: {len(alive)} of {len(scores)} go on by {name}, the best {scores[order[0]]:.5g}")
    return course


def _results(plan: Plan, course: Course, steps: Sequence[int]) -> list[Done]:
    """Return what each setting came to, at the end or, of those that a halving ended, at their last rung."""
    ends: dict[str, int] = {}
    for rung in course.rungs:
        ends |= dict.fromkeys(rung["scores"], rung["until"])
    done = []
    for setting in plan.settings:
        until = ends.get(setting.trials[0].name)
        trials = [
            (trial, until if until is not None else trial.length) for trial in setting.trials if trial.name not in course.failed
        ]
        runs = [(trial, length) for trial, length in trials if trial.record(length) is not None]
        done.append(Done(setting.values, runs, until is None or until == steps[-1]))
    return done


def about(args: Namespace, course: Course, plan: Plan) -> dict[str, Any]:
    """Return what the results say on the sweep itself, JSON-ready."""
    content: dict[str, Any] = {"option_file": args.opt, "overrides": args.force_yml, "axes": plan.axes, "failed": course.failed}
    content |= {"notes": plan.notes} if plan.notes else {}
    if args.halving:
        trained, before = 0.0, 0
        for rung in course.rungs:
            trained += len(rung["scores"]) * (rung["until"] - before)
            before = rung["until"]
        share = trained / (len(plan.settings) * max(plan.trials[0].length, 1))
        content |= {"halving": args.halving, "rungs": course.rungs, "share_of_all": share}
    return content


def _workers(args: Namespace, folder: Path, trials: int, held: int) -> Workers:
    if args.address is None:
        return Processes(args.jobs, trials, held)
    from sr_nas.jobs.on_ray import RayWorkers  # which an extra installs

    return RayWorkers(args.address, folder, args.jobs, args.cores or 1, args.gpus)


def estimate(plan: Plan, work: float, args: Namespace, console: Console) -> None:
    """Print the trials, and how long they would take by a few steps of the first trial of each setting on this machine."""
    rows, hours = [], []
    count = Processes(args.jobs, len(plan.trials), 0).count
    share = args.cores or 1 if args.address else max(1, cores() // count)
    for setting in plan.settings:
        options = setting.trials[0].options
        step, steps = _stepper(options)
        use_threads(omp_threads() or share if options.num_threads == "auto" else options.num_threads)
        step()
        times: list[float] = []
        while len(times) < 3:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        hours.append(min(times) * steps / 3600)
        names = [trial.name for trial in setting.trials]
        rows.append(
            {"trial": "\n".join(names), "steps": f"{steps:,}", "s a step": f"{min(times):.3g}", "hours": f"{hours[-1]:.2g}"}
        )
    total = sum(hours) / len(hours) * work
    Table(rows).print(console)
    text = f"{trials_of(len(plan.trials))}: {total:.3g} hours one after the other, without validations and selections"
    if not args.address or args.jobs:  # how many a cluster runs at a time is not known here
        text += f"; {duration(3600 * total / count)} by {count} at a time"
    console.print(text, soft_wrap=not console.is_terminal)


def _stepper(options: AnySearch | AnyTraining) -> tuple[Callable[[], object], int]:
    """Return what takes a step of a run that has just begun, and its number of steps."""
    device = pick_device(options.num_gpu)
    if isinstance(options, AnySearch):
        searcher = build_searcher(options, device)
        return searcher.take_step, searcher.steps
    images, network, _ = build_training(options)
    trainer = build_trainer(options, images, network, device, "fp32", 1)
    return trainer.step, trainer.total
