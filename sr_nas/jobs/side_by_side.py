"""Times of several things in turns in one process, and the memory of each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch

from sr_nas.errors import UserError
from sr_nas.jobs.measure_inference import LAUNCHER
from sr_nas.runs.device import peak_memory, reset_peak_memory


class Timing(NamedTuple):
    """Seconds on the clock, and of all cores together for this process."""

    seconds: float
    cpu_seconds: float


def in_turns(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    say: Callable[[str], None] = lambda _: None,
    after: Callable[[], object] = lambda: None,
    prepare: Callable[[str], object] = lambda _: None,
) -> dict[str, list[Timing]]:
    """Run every step once untimed, then all of them ``rounds`` times, every other round backwards.

    Args:
        steps: what is measured, by name.
        rounds: how often.
        device: it is waited for.
        say: told of progress.
        after: called after every round.
        prepare: called with a step's name before it, untimed.

    Returns:
        Times of every round, by step. What slows the machine for a while slows all steps of a round: compare within rounds.
    """
    for step in steps.values():
        step()
    times: dict[str, list[Timing]] = {name: [] for name in steps}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name in list(steps)[:: -1 if number % 2 else 1]:
            prepare(name)
            before = time.process_time()
            seconds = seconds_of(steps[name], device)
            times[name].append(Timing(seconds, time.process_time() - before))
        after()
    return times


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Return what a step takes, until the device is done with it."""
    wait_for(device)
    start = time.perf_counter()
    step()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(own: Sequence[Timing], base: Sequence[Timing]) -> dict[str, Any]:
    """Sum up the rounds of one step beside those of another.

    Returns:
        ``seconds``, the median, and ``spread``, the quartiles; ``ratio`` to the other step, the median of the rounds' own, and
        ``ratio_spread``, their quartiles; ``cpu_seconds`` and ``cpu_ratio``, medians of the same in seconds of all cores. Where
        other work keeps the machine busy, those tell more, as waiting for a core does not count.
    """
    seconds, ratios = [one.seconds for one in own], _ratios(own, base, 0)
    return {
        "seconds": median(seconds),
        "spread": quartiles(seconds),
        "ratio": median(ratios),
        "ratio_spread": quartiles(ratios),
        "cpu_seconds": median(one.cpu_seconds for one in own),
        "cpu_ratio": median(_ratios(own, base, 1)),
    }


def _ratios(own: Sequence[Timing], base: Sequence[Timing], which: int) -> list[float]:
    return [mine[which] / other[which] for mine, other in zip(own, base, strict=True)]


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the lower and the upper quartile."""
    if len(values) == 1:
        return [values[0], values[0]]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return [low, high]


def added_memory(step: Callable[[], object], device: torch.device) -> int | None:
    """Return what two steps add to the memory of this process (of the GPU, on CUDA) at most, in bytes.

    The first allocates gradients and moments. ``None`` where the system does not tell.
    """
    reset_peak_memory(device)
    before = peak_memory(device)
    for _ in range(2):
        step()
    after = peak_memory(device)
    return None if before is None or after is None else after - before


def apart(module: str, function: str, **words: Any) -> Any:
    """Return ``function(**words)`` of a module, called in a new process; words and answer as JSON.

    Raises:
        UserError: the process failed; its last words are passed on.
    """
    code = (
        "import importlib, json, sys; from sr_nas.runs.allocator import keep_freed_memory; keep_freed_memory();"
        "module, function, words = json.loads(sys.argv[1]);"
        "print(json.dumps(getattr(importlib.import_module(module), function)(**words)))"
    )
    call = json.dumps([module, function, words])
    done = subprocess.run([sys.executable, "-c", LAUNCHER, code, call], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the process that measures the memory ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
