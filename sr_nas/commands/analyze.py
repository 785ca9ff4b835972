"""The command ``analyze``: the analyses of SA-DARTS as tables in the terminal and files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sr_nas.analysis.curves import gaps, write_curves, write_gaps
from sr_nas.analysis.figures import told
from sr_nas.analysis.history import check_output, mean_and_std, quantities, spread
from sr_nas.analysis.landscape import Plane, measure_landscapes, summary
from sr_nas.analysis.methods import methods_of, read_run
from sr_nas.analysis.replace import replace_in
from sr_nas.classification.nasbench201_table import DATA_SETS
from sr_nas.errors import UserError
from sr_nas.jobs.sweep import read_axis, run_sweep, short_keys


def main(args: Namespace) -> int:
    """Run ``analyze``."""
    jobs = {"gaps": _gaps, "curves": _curves, "landscape": _landscape, "sweep": _sweep, "replace": _replace}
    return jobs[args.what](args)


def _gaps(args: Namespace) -> int:

    methods = methods_of(args.runs, args.epoch)
    rows = gaps(methods, args.edge)
    folder = write_gaps(rows, args.output)
    cells = [
        [
            row["method"],
            str(len(row["seeds"])),
            str(row["epoch"]),
            row["edge"],
            *(spread(row[f"gap_{name}_mean"], row[f"gap_{name}_std"], ".1e") for name in ("edge", "worst", "mean")),
        ]
        for row in rows
    ]
    _print(
        ["method", "seeds", "epoch", "edge", "gap there", "each seed's worst", "mean of edges"],
        cells,
        [text for method in methods if (text := method.unequal())],
        folder,
    )
    return 0


def _curves(args: Namespace) -> int:

    methods = methods_of(args.runs, args.epoch)
    folder = write_curves(methods, args.output, args.edge, args.operation)
    last = {
        method.name: [quantities(records[-1:], method.choices, args.operation) for records in method.records()]
        for method in methods
    }
    wanted = ("gap_worst", f"share_{args.operation}", "cifar10_test", "macs_lr_1280x720")
    shown = [name for name in wanted if any(name in run for runs in last.values() for run in runs)]
    cells = []
    for method in methods:
        row = [method.name, str(len(method.runs)), str(method.last()[0]["epoch"])]
        for name in shown:
            if all(name in run for run in last[method.name]):
                mean, std = mean_and_std([run[name] / told(name)[1] for run in last[method.name]])
                row.append(spread(float(mean[0]), float(std[0]), ".4g", ".2g"))
            else:
                row.append("-")
        cells.append(row)
    notes = [text for method in methods if (text := method.unequal())]
    _print(["method", "seeds", "epoch", *(told(name)[0] for name in shown)], cells, notes, folder)
    return 0


def _landscape(args: Namespace) -> int:
    if args.grid < 3 or args.grid % 2 == 0:
        raise UserError(f"--grid {args.grid}: an odd number of at least 3, so that alpha itself is among the points.")
    if args.batches < 1 or not 0 < args.radius < float("inf") or args.seed < 0:
        raise UserError("--batches is at least 1, --radius above 0 and --seed at least 0.")

    check_output(args.output)
    plane = Plane(args.radius, args.grid, args.batches, args.seed, args.normalise)
    folder, surfaces = measure_landscapes(args.runs, plane, args.output, args.force_yml, Console())
    cells = [
        [search, name, *(f"{found[key]:.4f}" for key in ("at_alpha", "mean", "std", "min", "max"))]
        for search, values in surfaces.items()
        for name, found in summary(values).items()
    ]
    _print(["search", "quantity", "at alpha", "mean", "deviation", "least", "largest"], cells, [], folder)
    return 0


def _sweep(args: Namespace) -> int:

    axes = [read_axis(text) for text in args.over]
    folder, rows, code = run_sweep(args.opt, args.force_yml, axes, args.seeds, args.show, args.output, Console())
    if folder is None:
        return code
    shown = rows[0]["shown"]
    cells = []
    for row in rows:
        found = [row["quantities"][name] for name in shown]
        units = [told(name)[1] for name in shown]
        numbers = [spread(each["mean"] / unit, each["std"] / unit, ".4g", ".2g") for each, unit in zip(found, units, strict=True)]
        cells.append([*(row[axis.key] for axis in axes), str(len(row["seeds"])), *numbers])
    _print([*short_keys(axes), "seeds", *(told(name)[0] for name in shown)], cells, [], folder)
    return 0


def _replace(args: Namespace) -> int:

    run = read_run(args.runs)
    edges = args.edge or [next(iter(run.choices))]
    folder, found = replace_in(run, list(run.choices) if edges == ["all"] else list(dict.fromkeys(edges)), args.output)
    cells, notes = [], []
    for label, edge in found.items():
        for place, operation in enumerate(edge.operations):
            cells.append(
                [label, operation, f"{edge.betas[place]:.4f}", *(f"{edge.accuracies[data][place]:.2f}" for data in DATA_SETS)]
            )
        counts = {data: edge.in_order(data) for data in DATA_SETS}
        told = ", ".join(f"{data} {right} of {pairs}" for data, (right, pairs) in counts.items())
        notes.append(f"{label}: pairs of operations that beta and accuracy order alike: {told}.")
    _print(["edge", "operation", "beta", *(f"{data} test" for data in DATA_SETS)], cells, notes, folder)
    return 0


def _print(headings: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], folder: Path) -> None:

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for text in [*notes, f"all of it {folder}"]:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
