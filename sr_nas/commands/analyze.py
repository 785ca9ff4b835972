"""The command ``analyze``: the analyses of SA-DARTS."""

from __future__ import annotations

from argparse import Namespace

from rich.console import Console

from sr_nas.analysis.curves import curves, gaps, replace
from sr_nas.analysis.history import methods_of, read_run
from sr_nas.analysis.landscape import Plane, landscapes
from sr_nas.analysis.sweep import cells_of, read_axes, run_sweep
from sr_nas.analysis.tables import Report, check_output


def main(args: Namespace) -> int:
    """Run an analysis and print its table."""
    console, code = Console(markup=False), 0
    report: Report | None = None
    check_output(args.output)
    match args.what:
        case "gaps":
            report = gaps(methods_of(args.runs, args.epoch), args.edge, args.output)
        case "curves":
            report = curves(methods_of(args.runs, args.epoch), args.edge, args.operation, args.output)
        case "landscape":
            plane = Plane(args.radius, args.grid, args.batches, args.seed, args.normalise)
            report = landscapes(args.runs, plane, args.output, args.force_yml, console)
        case "sweep":
            axes = read_axes(args.over)
            cells = cells_of(args.opt, args.force_yml, axes, args.seeds)
            report, code = run_sweep(cells, axes, args.show, args.output, console)
        case "replace":
            report = replace(read_run(args.runs), args.edge or [], args.output)
    if report is not None:
        report.print(console)
    return code
