"""What the benchmarks of searches have in common: arguments, and how they are printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sr_nas.commands.numbers import at_least

if TYPE_CHECKING:
    import torch
    from rich.console import Console

CASES = ("sac-imdn", "sa-imdn", "dlsr")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add what is measured: ``--case``, ``--batch``, ``--size``, ``--nf``."""
    parser.add_argument("--case", action="append", choices=CASES, help="what (default: all three)")
    parser.add_argument("--batch", type=at_least(1), default=4, metavar="N", help="patches per batch (default: 4)")
    parser.add_argument("--size", type=at_least(8), default=24, metavar="N", help="side of an LR patch (default: 24)")
    parser.add_argument("--nf", type=at_least(16), metavar="N", help="feature channels (default: the networks' own)")


def add_measuring(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add how it is measured: ``--rounds``, ``--threads``, ``--device``, ``--json``."""
    parser.add_argument("--rounds", type=at_least(1), default=rounds, metavar="N", help=f"rounds, in turns (default: {rounds})")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="threads on the CPU (default: as PyTorch has them)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: cpu)")


def ready(parsed: argparse.Namespace) -> tuple[torch.device, dict[str, Any]]:
    """Set the threads; return the device and what the machine is.

    Raises:
        UserError: there is no such device.
    """
    import torch

    from sr_nas.runs.device import device_named
    from sr_nas.runs.machine import machine

    device = device_named(parsed.device)
    if getattr(parsed, "threads", None) is not None:
        torch.set_num_threads(parsed.threads)
    return device, machine(device)


def progress() -> Callable[[str], None]:
    """Return what prints a line to standard error."""
    from rich.console import Console

    console = Console(stderr=True, markup=False)
    return lambda text: console.print(text, highlight=False, soft_wrap=True)


def show(result: dict[str, Any], as_json: bool, tables: Callable[[Console, dict[str, Any]], None]) -> None:
    """Print a result: as JSON, or the machine in words and below it tables, and what it is held against."""
    if as_json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    from rich.console import Console

    from sr_nas.runs.machine import in_words

    console = Console(markup=False)
    console.print(in_words(result["machine"]), highlight=False, soft_wrap=True)
    tables(console, result)
    for target in result.get("targets", ()):
        verdict = "met" if target["met"] else "missed"
        text = f"target {target['what']}: {target['found']:.3f}, at most {target['limit']:g}: {verdict}"
        console.print(text, highlight=False, soft_wrap=True)


def measured(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return seconds and ratio, each with its quartiles, and the ratio of CPU time as cells of a table."""
    (low, high), (least, most) = row["spread"], row["ratio_spread"]
    ratio = f"{row['ratio']:.2f} ({least:.2f}-{most:.2f})"
    return f"{row['seconds']:.3f} ({low:.3f}-{high:.3f})", ratio, f"{row['cpu_ratio']:.2f}"


def mebibytes(size: int | None) -> str:
    """Return a cell; ``-`` where the system does not tell."""
    return "-" if size is None else f"{size / 2**20:,.0f}"


def table_of(names: Sequence[str], numbers: Sequence[str], title: str) -> Any:
    """Return an empty table; the columns of numbers stand right."""
    from rich.table import Table

    table = Table(title=title)
    for heading in names:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
