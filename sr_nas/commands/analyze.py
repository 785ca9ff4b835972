"""The analyses of SA-DARTS. Each draws PNGs and writes its numbers beside them, as JSON and CSV.

RUN is the folder of a search; for gaps and curves also the folder NAME_seeds that search --seeds leaves, for all of its
searches. Searches that differ in their seeds alone are one method, drawn as mean and standard deviation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sr_nas.commands.numbers import seeds
from sr_nas.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Run ``analyze``."""
    parsed = _parser().parse_args(arguments)
    found: int = globals()[f"_{parsed.what}"](parsed)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="analyze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def job(name: str, told: str, runs: str | None = "+") -> argparse.ArgumentParser:
        made = jobs.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".")
        if runs:
            made.add_argument("runs", nargs=None if runs == "1" else runs, type=Path, metavar="RUN", help="folder of a search")
        made.add_argument(
            "-o", "--output", type=Path, metavar="DIR", help=f"new folder to write to (default: analyses/{name}, numbered)"
        )
        return made

    gaps = job("gaps", "table 1: top-2 gap of beta on the choice where it is least")
    gaps.add_argument("--edge", metavar="LABEL", help="compare all methods on this choice (default: each method's closest)")

    curves = job("curves", "figures 2 to 4: beta, alpha, gaps, skips, true accuracy or size over the epochs")
    for cut in (gaps, curves):
        cut.add_argument(
            "--epoch",
            type=int,
            metavar="N",
            help="the last to look at (default: a method's last that all seeds have)",
        )
    curves.add_argument("--edge", metavar="LABEL", help="choice in beta.png (default: the first)")
    curves.add_argument(
        "--operation", default="skip_connect", metavar="NAME", help="whose share to follow (default: skip_connect)"
    )

    landscape = job("landscape", "figure 5: loss and accuracy over two random directions in alpha")
    landscape.add_argument("--grid", type=int, default=21, metavar="N", help="points along each direction, odd (default: 21)")
    landscape.add_argument("--radius", type=float, default=1.0, help="farthest step, in --normalise's unit (default: 1)")
    landscape.add_argument("--batches", type=int, default=4, metavar="N", help="of alpha's images (default: 4)")
    landscape.add_argument("--seed", type=int, default=0, help="of the directions (default: 0)")
    landscape.add_argument(
        "--normalise",
        choices=("alpha", "unit"),
        default="alpha",
        help="length of a direction in each choice: alpha's own norm, or 1 (default: alpha)",
    )
    _force(landscape)

    sweep = job("sweep", "tables 5 and 8: the searches of a grid of options; the same command goes on where it was stopped", None)
    sweep.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML) of a search")
    sweep.add_argument(
        "--over",
        action="append",
        required=True,
        metavar="KEY=A,B,...",
        help="option and its values, e.g. search:regularizer:nu=0,0.25,1; may be given several times",
    )
    sweep.add_argument(
        "--seeds", type=seeds, metavar="0-4", help="search every cell with each (default: once, with the option file's)"
    )
    sweep.add_argument("--show", nargs="+", default=[], metavar="QUANTITY", help="what to draw, e.g. cifar10_test gap_worst")
    _force(sweep)

    replace = job("replace", "section 6.6: true accuracy when an edge's operation is replaced, in decreasing order of beta", "1")
    replace.add_argument("--edge", nargs="+", metavar="LABEL", help="edges, or 'all' (default: the first)")
    return parser


def _force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force_yml",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override options, e.g. datasets:train:dataroot=DIR",
    )


def _gaps(parsed: argparse.Namespace) -> int:
    from sr_nas.analysis.curves import gaps, write_gaps
    from sr_nas.analysis.history import spread
    from sr_nas.analysis.methods import methods_of

    methods = methods_of(parsed.runs, parsed.epoch)
    rows = gaps(methods, parsed.edge)
    folder = write_gaps(rows, parsed.output)
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


def _curves(parsed: argparse.Namespace) -> int:
    from sr_nas.analysis.curves import write_curves
    from sr_nas.analysis.figures import told
    from sr_nas.analysis.history import mean_and_std, quantities, spread
    from sr_nas.analysis.methods import methods_of

    methods = methods_of(parsed.runs, parsed.epoch)
    folder = write_curves(methods, parsed.output, parsed.edge, parsed.operation)
    last = {
        method.name: [quantities(records[-1:], method.choices, parsed.operation) for records in method.records()]
        for method in methods
    }
    wanted = ("gap_worst", f"share_{parsed.operation}", "cifar10_test", "macs_lr_1280x720")
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


def _landscape(parsed: argparse.Namespace) -> int:
    if parsed.grid < 3 or parsed.grid % 2 == 0:
        raise UserError(f"--grid {parsed.grid}: an odd number of at least 3, so that alpha itself is among the points.")
    if parsed.batches < 1 or not 0 < parsed.radius < float("inf") or parsed.seed < 0:
        raise UserError("--batches is at least 1, --radius above 0 and --seed at least 0.")

    from rich.console import Console

    from sr_nas.analysis.history import check_output
    from sr_nas.analysis.landscape import Plane, measure_landscapes, summary

    check_output(parsed.output)
    plane = Plane(parsed.radius, parsed.grid, parsed.batches, parsed.seed, parsed.normalise)
    folder, surfaces = measure_landscapes(parsed.runs, plane, parsed.output, parsed.force_yml, Console())
    cells = [
        [search, name, *(f"{found[key]:.4f}" for key in ("at_alpha", "mean", "std", "min", "max"))]
        for search, values in surfaces.items()
        for name, found in summary(values).items()
    ]
    _print(["search", "quantity", "at alpha", "mean", "deviation", "least", "largest"], cells, [], folder)
    return 0


def _sweep(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from sr_nas.analysis.figures import told
    from sr_nas.analysis.history import spread
    from sr_nas.jobs.sweep import read_axis, run_sweep, short_keys

    axes = [read_axis(text) for text in parsed.over]
    folder, rows, code = run_sweep(parsed.opt, parsed.force_yml, axes, parsed.seeds, parsed.show, parsed.output, Console())
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


def _replace(parsed: argparse.Namespace) -> int:
    from sr_nas.analysis.methods import read_run
    from sr_nas.analysis.replace import replace_in
    from sr_nas.classification.nasbench201_table import DATA_SETS

    run = read_run(parsed.runs)
    edges = parsed.edge or [next(iter(run.choices))]
    folder, found = replace_in(run, list(run.choices) if edges == ["all"] else list(dict.fromkeys(edges)), parsed.output)
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
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for text in [*notes, f"all of it {folder}"]:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
