"""How much memory a search will take, told before it starts."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from sr_nas.build import build_searcher
from sr_nas.complexity.memory import PROBE, extrapolated_peak
from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.genotype import JOINT, Choices, Genotype
from sr_nas.jobs.evaluate import describe
from sr_nas.jobs.run import Opened, batch_share, begun_with, open_run
from sr_nas.options.search import SearchOptions
from sr_nas.options.tasks import AnySearch
from sr_nas.report.decision import Decision, decision
from sr_nas.report.plots import plot_alpha, plot_beta
from sr_nas.report.progress import SearchView, macs, truth
from sr_nas.runs.checkpoint import refuse_non_finite, save_checkpoint
from sr_nas.runs.device import available_memory, check_precision, peak_memory, pick_device
from sr_nas.runs.distributed import GracefulShutdown, is_first, world_size
from sr_nas.runs.files import replacing, write_json, write_text
from sr_nas.runs.run_dir import CHECKPOINT, NETWORK_BLOCK, append_history, cut_history, read_history
from sr_nas.search.searcher import Record, Searcher

LIBRARIES = {"cpu": (36e6, 1.3)}
"""Device -> bytes, and a factor on those of tensors, for what libraries hold besides.

Fitted to steps of IMDN and DLSR spaces of one thread on one machine, the worst of which lies 18 % off. Other devices have none.
"""


def step_bytes(searcher: Searcher, scale: int, pixels: int) -> int:
    """Return the most bytes that tensors of a search step take beside the supernet's weights, optimizer states included.

    The alpha step is the larger one. It is run on a tiny image and leaves nothing behind.

    Args:
        searcher: with its supernet on its device.
        scale: upscaling factor.
        pixels: LR pixels of a process's share of a batch.
    """
    device = searcher.device
    parameters = list(searcher.space.parameters())
    low = torch.zeros(1, 3, *PROBE, device=device)
    high = torch.zeros(1, 3, *(scale * side for side in PROBE), device=device)
    other = low.clone(), high.clone()
    kept = {parameter: parameter.grad for parameter in searcher.alpha.parameters()}

    def step() -> None:
        searcher.alpha_gradient((low, high), other)

    searcher.space.train()
    with torch.random.fork_rng(devices=[]):
        peak = extrapolated_peak(
            step, pixels, [*parameters, *searcher.space.buffers(), *searcher.alpha.parameters()], [low, high, *other]
        )
    for parameter, gradient in kept.items():
        parameter.grad = gradient
    return peak + _bytes(parameters) + _state_bytes(searcher.weight_optimizer)


def needed_memory(searcher: Searcher, scale: int, pixels: int) -> int:
    """Return about the most bytes that a search will add to what this process takes now: tensors and :data:`LIBRARIES`."""
    fixed, factor = LIBRARIES.get(searcher.device.type, (0, 1))
    return round(fixed + factor * step_bytes(searcher, scale, pixels))


def check_memory(searcher: Searcher, options: SearchOptions, begun: int, processes: int) -> str:
    """Return a clause that says what a search needs and what there is.

    Args:
        searcher: before its first step.
        options: that it was built from.
        begun: number of processes that the run was begun with, whose batches are shared by
        processes: as many as there are now.

    Raises:
        UserError: there is less, with advice.
    """
    data = options.datasets.train
    side = data.gt_size // options.scale
    needed = needed_memory(searcher, options.scale, data.batch_size_per_gpu * begun // processes * side * side)
    available = available_memory(searcher.device)
    if available is None:
        return f", needs about {_told(needed)}"
    if searcher.device.type == "cpu":
        available //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if needed > available:
        raise UserError(
            f"a step of this search needs about {_told(needed)}, and {searcher.device} has {_told(available)}. {_advice(options)}"
        )
    return f", needs about {_told(needed)} of {_told(available)} available"


def _advice(options: SearchOptions) -> str:
    network, data = options.network_g.arguments(), options.datasets.train
    ways = []
    if network.get("execution") == "plain":
        ways.append("set network_g.execution to fused")
    if network.get("checkpointing") is False:
        ways.append("set network_g.checkpointing to true, which computes more and keeps less")
    if "partial_channel" in network:
        ways.append(f"raise network_g.partial_channel (K, now {network['partial_channel']})")
    if data.batch_size_per_gpu > 1:
        ways.append(f"lower datasets.train.batch_size_per_gpu (now {data.batch_size_per_gpu})")
    ways.append(f"lower datasets.train.gt_size (now {data.gt_size})")
    if options.search.order == "second":
        ways.append("set search.order to first")
    return f"To take less, {', '.join(ways[:-1])} or {ways[-1]}." if len(ways) > 1 else f"To take less, {ways[0]}."


def _state_bytes(optimizer: Optimizer) -> int:
    """What an optimizer keeps of its own, seen on a copy that takes a step."""
    other = copy.deepcopy(optimizer)
    for group in other.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    other.step()
    return _bytes([value for state in other.state.values() for value in state.values() if isinstance(value, Tensor)])


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _told(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


# MERGED sr_nas.jobs.search: A search, from its options to a genotype in a run folder.


GENOTYPE, INHERITED = "genotype.json", "inherited.safetensors"
ADVICE = "Lower train.optim_g.lr or search.alpha.optim.lr, or set train.grad_clip_norm."


def run_search(options: AnySearch, console: Console, auto_resume: bool = False) -> tuple[Path, int]:
    """Search, or go on searching; each of several processes calls this, within :func:`sr_nas.runs.distributed.processes`.

    Args:
        options: checked options.
        console: where the first process shows progress.
        auto_resume: go on with the newest run of this name, where there is one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the search.
    """
    device = pick_device(options.num_gpu)
    check_precision(device, options.train.precision)
    begun = begun_with(options, auto_resume)
    searcher = build_searcher(options, device, begun)
    memory = check_memory(searcher, options, begun, world_size()) if isinstance(options, SearchOptions) else ""
    run = open_run(options, device, auto_resume)
    console = console if is_first() else Console(quiet=True, force_terminal=False)
    described = _describer(searcher)
    if run.state is not None:
        searcher.load_state_dict(run.state)
    if is_first() and run.state is None:
        append_history(run.folder, searcher.record(0) | described(searcher.genotype()))
        save_checkpoint(run.folder / CHECKPOINT, searcher.state_dict())
    elif is_first():
        cut_history(run.folder, searcher.step)
    choices = searcher.space.choices()
    frequency = options.logger.save_checkpoint_freq or searcher.plan.steps_per_epoch

    data = options.datasets.train.name or options.datasets.train.type
    start = searcher.step

    with (
        closing(run),
        SearchView(console, run.folder.name, searcher.steps, start, options.logger.print_freq, searcher.plan.epochs) as view,
        GracefulShutdown() as stop,
    ):
        verb = "searching" if run.state is None else "going on"
        share = batch_share(options, begun)
        _say(run, view, f"{verb} in {run.folder} on {device} with {data}{share}, step {start} of {searcher.steps}{memory}")

        def on_step(losses: Mapping[str, Any]) -> None:
            view.step(searcher.step, losses)

        def on_epoch(record: Record) -> None:
            if not is_first():
                return
            peak = peak_memory(device)
            record |= described(searcher.genotype()) | ({} if peak is None else {"memory_bytes": peak})
            append_history(run.folder, record)
            run.log.info("epoch %d %s %s", record["epoch"], record["loss"], record["genotype"]["genotype"])
            view.epoch(record)

        def between_steps() -> bool:
            stopping = stop.agreed()
            if stopping or searcher.step % frequency == 0 or searcher.step == searcher.steps:
                searcher.read_losses()
                refuse_non_finite(searcher.space, ADVICE)
                refuse_non_finite(searcher.alpha, ADVICE)
                if is_first():
                    save_checkpoint(run.folder / CHECKPOINT, searcher.state_dict())
            return stopping

        finished = searcher.run(on_step, on_epoch, between_steps)
        if not finished:
            _say(run, view, f"stopped at step {searcher.step}, saved in {run.folder}. --auto_resume goes on from there.")
            return run.folder, stop.exit_code
        if not is_first():
            return run.folder, 0
        write_results(run.folder, searcher, choices)
        lines = outcome(run.folder, choices)
        run.log.info("%s", "\n".join(lines))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return run.folder, 0


def write_results(folder: Path, searcher: Searcher, choices: Choices) -> None:
    """Write the genotype, the option block that trains it, the weights it inherits, and the plots."""
    genotype, history = searcher.genotype(), read_history(folder)
    network = searcher.space.derive(genotype)
    write_json(folder / GENOTYPE, genotype.to_json())
    settings = network.settings()
    if isinstance(network, SRNetwork):
        block: dict[str, Any] = {"scale": settings.pop("scale"), "network_g": {"type": genotype.arch} | settings}
    else:
        # A classifier is searched in small and trained in the size of its own defaults, which is the published one.
        block = {"task": "classification", "network_g": {"type": genotype.arch, "genotype": settings["genotype"]}}
    write_text(
        folder / NETWORK_BLOCK,
        "# The searched network, for the option file of its training: copy it, or inherit it with _base_.\n"
        + yaml.safe_dump(block, sort_keys=False),
    )
    inherited = {name: tensor.detach().cpu().contiguous() for name, tensor in searcher.space.inherited(genotype).items()}
    with replacing(folder / INHERITED) as temporary:
        save_file(inherited, temporary)
    (folder / "plots").mkdir(exist_ok=True)
    plot_beta(history, candidates_of(choices), folder / "plots" / "beta.png")
    plot_alpha(history, candidates_of(choices), folder / "plots" / "alpha.png")


def outcome(folder: Path, choices: Choices) -> list[str]:
    """Say what a finished search found, how clearly, and how far alpha has come from its random start."""
    history = read_history(folder)
    last, found = history[-1], decision(history, choices)
    genotype = Genotype.from_json(last["genotype"])
    times = f", {found.final_spread / found.initial_spread:.0f} times as much" if found.initial_spread else ""
    memory = f", {last['memory_bytes'] / 1e9:.2f} GB of memory at most" if "memory_bytes" in last else ""
    rows = [(label, JOINT.join(names), *_clarity(found, label, choices)) for label, names in genotype.picks]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"genotype  {genotype.arch}: what is kept, its beta (the weakest of several), its lead over the rest, an even draw",
        *("          " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        f"network   {last['params']:,} parameters; " + "; ".join(f"{name} {value}" for name, value in macs(last, 2).items()),
        *(f"{'truth':<10}{name} {known}" for name, known in truth(last).items()),
        f"alpha     spread within a choice {found.initial_spread:.4f} at the start, {found.final_spread:.4f} now{times}",
        f"took      {sum(record['seconds'] for record in history):.0f} s{memory}",
        f"all of it {folder}",
    ]


def _clarity(found: Decision, label: str, choices: Choices) -> tuple[str, str, str]:
    if label not in choices:
        return "decided by several choices", "", ""
    if label not in found.weakest:
        return "keeps all it can", "", ""
    return f"{found.weakest[label]:.3f}", f"+{found.margin[label]:.3f}", f"{1 / len(choices[label].candidates):.3f}"


def candidates_of(choices: Choices) -> dict[str, tuple[str, ...]]:
    """label -> candidates, as the views and plots take them."""
    return {label: choice.candidates for label, choice in choices.items()}


def _describer(searcher: Searcher) -> Any:
    @cache
    def described(genotype: Genotype) -> dict[str, Any]:
        # Building a network draws its initial weights; the search's own random numbers must not notice.
        with torch.random.fork_rng(devices=[]):
            return describe(searcher.space.derive(genotype))

    return described


def _say(run: Opened, view: SearchView, text: str) -> None:
    run.log.info("%s", text)
    view.message(text)
