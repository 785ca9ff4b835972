"""Searches beside chance by the IMDN table: PSNR of what they find, and of all networks of equal cost."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from sr_nas.analysis.contenders import BAND, paired
from sr_nas.analysis.history import Method, methods_of
from sr_nas.complexity.costs import complexity
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.networks.imdn import IMDN, IMDN_OPERATIONS, PUBLISHED
from sr_nas.networks.imdn_table import DATA_SETS, SETTINGS, place, read_trainings, table
from sr_nas.options.load import FREE, decisive
from sr_nas.report.plots import COLOURS, FAINT, Values, new_figure, save, style
from sr_nas.report.tables import Report, check_output, open_output, write_csv, write_numbers

MARKERS = "osD^vP*X<>"


@dataclass(frozen=True)
class Find:
    """The network of one search, as the table has it.

    Attributes:
        macs: multiply-adds.
        psnr: ``[data sets]`` in dB, the mean over seeds or predicted.
        chance: ``[data sets]``: mean PSNR of all networks whose multiply-adds differ by at most 5 %.
        worse: ``[data sets]``: share of those networks that are worse, 0..1.
        regret: ``[data sets]`` in dB, to the best network within the budget.
        trained: seeds that the PSNR is a mean over, 0 where it is predicted.
    """

    macs: float
    psnr: Values
    chance: Values
    worse: Values
    regret: Values
    trained: int


def find(genotype: Genotype, budget: float | None = None) -> Find:
    """Return what the table knows of a network; of the networks beside it, what is predicted, trained or not.

    The budget is of multiply-adds; by default what the network has.
    """
    columns, row = table(), place([names[0] for _, names in genotype.picks])
    macs, psnr = columns["macs_hr"], columns["psnr"][row].astype(np.float64)
    band = columns["predicted"][np.abs(macs / macs[row] - 1) <= BAND].astype(np.float64)
    own = columns["predicted"][row]
    best = columns["predicted"][macs <= (budget or macs[row])].max(axis=0)
    worse = (band < own).mean(axis=0)
    return Find(float(macs[row]), psnr, band.mean(axis=0), worse, best - psnr, int(columns["trained"][row]))


def finds_of(method: Method) -> list[Find]:
    """Return the networks of a method's searches; UserError where the table has none of their setting."""
    options: Any = method.runs[0].options
    setting = {"scale": getattr(options, "scale", None)} | {
        key: getattr(options.network_g, key, None) for key in ("nf", "num_blocks")
    }
    if options.network_g.type != IMDN.arch or setting != SETTINGS:
        raise UserError(
            f"{method.runs[0].folder}: the table has networks of IMDN at {SETTINGS}, and this is a search of "
            f"{options.network_g.type} at {setting}."
        )
    genotypes = [Genotype.from_json(run.history[-1]["genotype"]) for run in method.runs]
    for run, genotype in zip(method.runs, genotypes, strict=True):
        if strange := {names[0] for _, names in genotype.picks} - set(IMDN_OPERATIONS):
            raise UserError(f"{run.folder}: the table has no networks with {', '.join(sorted(strange))}.")
    return [find(genotype, options.search.budget.macs_hr) for genotype in genotypes]


def main(args: Namespace) -> int:
    """Run ``analyze methods``: write ``methods.json``, ``methods.csv`` and ``methods.png``; return the exit code."""
    check_output(args.output)
    methods = methods_of(args.runs)
    finds = [finds_of(method) for method in methods]
    number = DATA_SETS.index(args.set)
    numbers = [summary(method, found, number) for method, found in zip(methods, finds, strict=True)]
    rows = [
        {
            "method": row["method"],
            "searches (trained)": f"{row['searches']} ({row['trained']})",
            "MACs, G": f"{row['macs_hr'] / 1e9:.2f}",
            f"{args.set}, dB": f"{row['psnr']:.3f} ± {row['psnr_sd']:.3f}",
            "minus chance": "{minus_chance_mean:+.3f} [{minus_chance_low:+.3f}, {minus_chance_high:+.3f}]".format(**row),
            "better than": f"{row['better_than']:.0%}",
            "regret": f"{row['regret']:.3f}",
            "seconds": f"{row['seconds']:.0f}",
        }
        for row in numbers
    ]
    folder = open_output(args.output, "methods")
    write_numbers(folder / "methods.json", {"set": args.set, "methods": numbers})
    write_csv(folder / "methods.csv", numbers)
    save(methods_figure(methods, finds, args.set), folder / "methods.png")
    notes = [
        "PSNR by the table, mean ± standard deviation over searches, and how many of their networks were trained",
        f"chance: the mean network within {BAND:.0%} of the multiply-adds, in brackets the 95 % interval of the mean difference",
        "better than: share of these networks that are predicted to be worse; regret: to the best network within the budget",
    ]
    Report(folder, rows, notes).print(Console(markup=False))
    return 0


def summary(method: Method, finds: Sequence[Find], number: int) -> dict[str, Any]:
    """Return what a method's searches come to on the data set of this number, JSON-ready."""
    psnr, chance, worse, regret = (
        np.array([getattr(each, key)[number] for each in finds]) for key in ("psnr", "chance", "worse", "regret")
    )
    spread, gain = paired(psnr), paired(psnr - chance)
    return {
        "method": method.name,
        "searches": len(finds),
        "trained": sum(each.trained > 0 for each in finds),
        "macs_hr": float(np.mean([each.macs for each in finds])),
        "psnr": spread["mean"],
        "psnr_sd": spread["sd"],
        **{f"minus_chance_{key}": gain[key] for key in ("mean", "sd", "low", "high")},
        "better_than": float(worse.mean()),
        "regret": float(regret.mean()),
        "seconds": float(np.mean([sum(record["seconds"] for record in run.history) for run in method.runs])),
    }


def published_by_width(name: str) -> dict[float, Values]:
    """Return multiply-adds -> PSNR by seed of the published genotype at the widths that were trained as the table's networks."""
    scores: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in read_trainings():
        if tuple(row[f"conv{position}"] for position in range(1, 5)) == PUBLISHED:
            scores[int(row["iterations"]), int(row["nf"])].append(float(row[f"{name}_psnr"]))
    usual = max(scores, key=lambda key: len(scores[key]), default=(0, 0))[0]
    size = {key: value for key, value in SETTINGS.items() if key != "nf"}
    costs = {nf: complexity(IMDN(**size, nf=nf))["macs_hr_1280x720"] for iterations, nf in sorted(scores) if iterations == usual}
    return {cost: np.array(scores[usual, nf]) for nf, cost in costs.items()}


def methods_figure(methods: Sequence[Method], finds: Sequence[Sequence[Find]], name: str) -> Figure:
    """Draw PSNR against multiply-adds: trained networks of the table, the published one by width, and each method's searches.

    Methods that differ in their budget alone share a colour and a mark. Bars are one standard deviation.
    """
    columns, number = table(), DATA_SETS.index(name)
    trained = columns["trained"] > 0
    figure = new_figure(7.5, 5.2)
    axes = figure.subplots()
    style(axes, "what searches find, beside chance and a hand-made network", "MACs, HR output 1280x720, G", f"PSNR on {name}, dB")
    axes.plot(
        columns["macs_hr"][trained] / 1e9, columns["psnr"][trained, number], ".", color=FAINT, alpha=0.5, label="trained networks"
    )
    bars: dict[str, Any] = {"capsize": 2, "markersize": 6}
    if widths := published_by_width(name):
        means, sds = (
            [values.mean() for values in widths.values()],
            [values.std(ddof=1) if len(values) > 1 else 0 for values in widths.values()],
        )
        axes.errorbar([cost / 1e9 for cost in widths], means, sds, color="black", marker="s", label="IMDN by width", **bars)
    kinds: dict[str, int] = {}
    for method, found in zip(methods, finds, strict=True):
        decides = decisive(method.runs[0].options.model_dump(mode="json"), (*FREE, "name", "manual_seed"))
        decides["search"] = {**decides["search"], "budget": None}
        key = json.dumps(decides, sort_keys=True)
        first, kind = key not in kinds, kinds.setdefault(key, len(kinds))
        psnr, macs = (np.array(values) for values in ([each.psnr[number] for each in found], [each.macs / 1e9 for each in found]))
        look: dict[str, Any] = {
            "color": COLOURS[kind % len(COLOURS)],
            "marker": MARKERS[kind % len(MARKERS)],
            "linestyle": "none",
        }
        label = re.sub(r"[_-]?[\d.]+[kMG]$", "", method.name)
        up, across = (float(values.std(ddof=1)) if len(found) > 1 else 0.0 for values in (psnr, macs))
        axes.errorbar(macs.mean(), psnr.mean(), up, across, label=label if first else None, **look, **bars)
    axes.legend(frameon=False, fontsize=8)
    return figure
