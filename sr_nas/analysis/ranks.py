"""Rank correlations: how well a cheap predictor orders the trained networks of the IMDN table, over all and at equal cost."""

from __future__ import annotations

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from sr_nas.complexity.costs import complexity
from sr_nas.contracts import Network
from sr_nas.errors import UserError
from sr_nas.genotype import Choice, Genotype, genotype_from
from sr_nas.networks.imdn import IMDN, IMDN_OPERATIONS, LABELS
from sr_nas.networks.imdn_table import SETTINGS, read_trainings
from sr_nas.options.load import load_options
from sr_nas.report.plots import COLOURS, Values, new_figure, save, style
from sr_nas.report.tables import Report, check_output, open_output, write_csv, write_numbers
from sr_nas.runs.device import pick_device
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS, load_tensors, restoring
from sr_nas.search.selection import Scores
from sr_nas.task import build_searcher, search_options

EQUAL = 0.1
"""Relative difference of multiply-adds up to which two networks are of equal cost."""
RESAMPLES = 1000
"""Of the bootstrap, over networks."""


def synflow(network: Network) -> float:
    """Return the logarithm of SynFlow (Tanaka et al. 2020): the sum of w dR/dw over all weights, with R the sum of the outputs.

    Weights are replaced by their absolute values and the input is 1 everywhere; BatchNorm is in evaluation mode, as initialised.
    """
    network = network.double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    network(torch.ones(1, 3, 16, 16, dtype=torch.float64)).sum().backward()
    return math.log(
        sum(float((weight.detach() * weight.grad).sum()) for weight in network.parameters() if weight.grad is not None)
    )


def correlation(predictor: Values, truth: Values, pairs: Values, weights: Values | None = None) -> float:
    """Return Kendall's tau-a over some pairs: the mean of the product of the signs of the differences, ties counting as 0.

    Args:
        predictor: ``[networks]``; networks where it is NaN take no part.
        truth: ``[networks]``.
        pairs: ``[networks, networks]``, symmetric: 1 for pairs that count, else 0.
        weights: how many times each network counts, ``[networks]``; by default once.
    """
    known = np.isfinite(predictor)
    x, y = predictor[known], truth[known]
    agree = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    among = pairs[np.ix_(known, known)] * (1 - np.eye(len(x)))
    w = np.ones(len(x)) if weights is None else weights[known]
    count = w @ among @ w
    return float(w @ (agree * among) @ w / count) if count else math.nan


def interval(predictor: Values, truth: Values, pairs: Values, seed: int = 0) -> tuple[float, float, float]:
    """Return :func:`correlation` and the ends of its 95 % bootstrap interval, resampling networks."""
    random = np.random.default_rng(seed)
    counts = [np.bincount(random.integers(len(truth), size=len(truth)), minlength=len(truth)) for _ in range(RESAMPLES)]
    taus = [correlation(predictor, truth, pairs, count.astype(np.float64)) for count in counts]
    low, high = np.nanpercentile(taus, (2.5, 97.5))
    return correlation(predictor, truth, pairs), float(low), float(high)


def of_search(folder: Path, genotypes: Sequence[Genotype], overrides: Sequence[str], batches: int) -> dict[str, list[float]]:
    """Return what a finished search says of networks: the sum of log beta, and minus their loss in its supernet.

    Args:
        folder: of the run.
        genotypes: of its space.
        overrides: of its options, such as the folders of its data.
        batches: of alpha's images, for the loss in the supernet.
    """
    options = load_options(search_options, folder / OPTIONS, overrides)
    device = pick_device(options.num_gpu)
    state, searcher = load_tensors(folder / CHECKPOINT, device), build_searcher(options, device)
    with restoring(folder / CHECKPOINT):
        searcher.load_state_dict(state)
    with torch.no_grad():
        beta, choices = searcher.beta(), searcher.space.choices()
    indices = [[choices[label].candidates.index(genotype[label][0]) for label in LABELS] for genotype in genotypes]
    likelihood = [sum(float(beta[label][index].log()) for label, index in zip(LABELS, row, strict=True)) for row in indices]
    score = Scores(searcher, batches)
    score.begin()
    searcher.space.train()
    shown = track(genotypes, f"{folder.name}: networks", console=Console(stderr=True), transient=True)
    losses = [-score(genotype) for genotype in shown]
    return {"log beta": likelihood, "loss in the supernet": losses}


def trained_scores(name: str) -> dict[tuple[str, ...], dict[int, list[float]]]:
    """Return candidates -> iterations -> PSNR in dB on a data set by seed, of the trained networks of the table."""
    scores: dict[tuple[str, ...], dict[int, list[float]]] = {}
    for row in read_trainings():
        if int(row["nf"]) == SETTINGS["nf"]:
            by_length = scores.setdefault(tuple(row[label] for label in LABELS), {})
            by_length.setdefault(int(row["iterations"]), []).append(float(row[f"{name}_psnr"]))
    return scores


def main(args: Namespace) -> int:
    """Run ``analyze ranks``: write ``ranks.json``, ``ranks.csv`` and ``ranks.png``; return the exit code."""
    check_output(args.output)
    for run in args.runs:
        network: Any = load_options(search_options, run / OPTIONS, args.force_yml).network_g
        if network.type != IMDN.arch or network.candidates is not None:
            raise UserError(f"{run}: the table is of IMDN with all its candidates, and this search of {network.type} is not.")
    scores = trained_scores(args.set)
    lengths = Counter(length for by_length in scores.values() for length in by_length)
    usual = lengths.most_common(1)[0][0]
    scores = {names: by_length for names, by_length in scores.items() if usual in by_length}
    truth = np.array([np.mean(by_length[usual]) for by_length in scores.values()])
    choices = {label: Choice(IMDN_OPERATIONS) for label in LABELS}
    genotypes = [genotype_from(list(names), "IMDN", choices) for names in scores]

    torch.manual_seed(args.seed)
    costs = [complexity(IMDN(**SETTINGS, genotype=genotype)) for genotype in genotypes]
    macs = np.array([cost["macs_hr_1280x720"] for cost in costs], dtype=np.float64)
    predictors: dict[str, Values] = {
        "multiply-adds": macs,
        "parameters": np.array([cost["params"] for cost in costs], dtype=np.float64),
        "SynFlow": np.array([synflow(IMDN(**SETTINGS, genotype=genotype)) for genotype in genotypes]),
    }
    for length in sorted(lengths.keys() - {usual}):
        known = [np.mean(by_length.get(length, math.nan)) for by_length in scores.values()]
        predictors[f"training of {length:,} iterations"] = np.array(known)
    for run in args.runs:
        for name, values in of_search(run, genotypes, args.force_yml, args.batches).items():
            predictors[f"{run.resolve().name}: {name}"] = np.array(values)
    report(predictors, truth, macs, args)
    return 0


def report(predictors: Mapping[str, Values], truth: Values, macs: Values, args: Namespace) -> None:
    """Write and print the correlations of predictors with the truth, ``[networks]``."""
    equal = (np.abs(np.log(macs[:, None] / macs)) <= math.log(1 + EQUAL)).astype(np.float64)
    numbers, rows = [], []
    for name, values in predictors.items():
        entry: dict[str, object] = {"predictor": name, "networks": int(np.isfinite(values).sum())}
        texts = {"predictor": name, "networks": str(entry["networks"])}
        for title, pairs in (("all", np.ones_like(equal)), ("equal_cost", equal)):
            tau, low, high = interval(values, truth, pairs)
            entry |= {f"tau_{title}": tau, f"low_{title}": low, f"high_{title}": high}
            texts[title.replace("_", " ")] = f"{tau:.2f} [{low:.2f}, {high:.2f}]"
        numbers.append(entry)
        rows.append(texts)
    folder = open_output(args.output, "ranks")
    write_numbers(folder / "ranks.json", numbers)
    write_csv(folder / "ranks.csv", numbers)
    save(ranks_figure(numbers), folder / "ranks.png")
    note = f"Kendall's tau with PSNR on {args.set}, and its 95 % interval; equal cost: multiply-adds within {EQUAL:.0%}"
    Report(folder, rows, [note]).print(Console(markup=False))


def ranks_figure(numbers: Sequence[Mapping[str, object]]) -> Figure:
    """Draw tau with its interval by predictor, over all pairs and over those of equal cost."""
    figure = new_figure(7.5, 0.45 * len(numbers) + 1.4)
    panel = figure.subplots()
    style(panel, "agreement with the trained networks", "Kendall's tau", "")
    for place, (title, offset) in enumerate((("all", -0.15), ("equal_cost", 0.15))):
        tau, low, high = (np.array([row[f"{end}_{title}"] for row in numbers]) for end in ("tau", "low", "high"))
        bars: dict[str, Any] = {"xerr": [tau - low, high - tau], "capsize": 3, "fmt": "o", "color": COLOURS[place]}
        panel.errorbar(tau, np.arange(len(numbers)) + offset, label=title.replace("_", " "), **bars)
    panel.axvline(0, linewidth=0.8, color="0.6")
    panel.set_yticks(range(len(numbers)), [str(row["predictor"]) for row in numbers])
    panel.invert_yaxis()
    panel.legend()
    return figure
