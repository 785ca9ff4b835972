"""Build the table of trained networks of the IMDN space (sr_nas/networks/imdn_table.py).

``train`` trains networks alike and adds a line to a CSV for each, going on where it was stopped; ``fit`` predicts all the others.
"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import sys
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import kendalltau
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sr_nas.cli import whole_number, with_errors_printed
from sr_nas.complexity.latency import read_latency
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype, read_genotype
from sr_nas.networks.imdn import IMDN, IMDN_OPERATIONS, LABELS, PUBLISHED
from sr_nas.networks.imdn_table import DATA_SETS, FILE, SETTINGS, TRAININGS, place, read_trainings, truth
from sr_nas.options.load import load_options
from sr_nas.report.progress import duration
from sr_nas.runs.files import write_json
from sr_nas.search.budget import Cost
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.task import Validator, build_trainer, build_training, find_task, network_costs, training_options

Numbers = NDArray[np.float64]
Names = tuple[str, ...]

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ROOT / "options" / "train_imdn_table.yml"
CSV = ROOT / "sr_nas" / "networks" / TRAININGS
EVERY = list(product(IMDN_OPERATIONS, repeat=len(LABELS)))
"""All genotypes, in the order of the table's rows."""
DRAWS, REPEATED = 400, 20
"""Networks drawn uniformly, and how many of the first ones are trained from three seeds."""
SEEDS = (1, 2)
LONG, SHORT = (40, 4.0), (100, 0.1)
"""Of the first ones again, how many are trained longer and shorter too, and how many times as long."""
LAST = 40
"""How many of the last ones are measured on Urban100 too, which takes as long as to train them."""
WIDTHS = (8, 12, 20, 24, 28)
"""Other widths at which the published network is trained: what a search is to beat."""
PAPER = (
    ("dsconv_3x3", "conv_3x3", "dsconv_3x3_bn", "dsconv_5x5"),
    ("conv_5x5_bn", "conv_5x5", "conv_5x5_bn", "conv_5x5_bn"),
    ("dil_dsconv_3x3", "dsconv_3x3", "dsconv_3x3", "dil_dsconv_3x3"),
)
"""Genotypes that SA-DARTS (Zhou et al., arXiv 2504.16306) prints, beside IMDN's."""


URBAN = "Urban100"
COLUMNS = (
    *LABELS,
    "nf",
    "seed",
    "iterations",
    *(f"{name}_{kind}" for name in (*DATA_SETS, URBAN) for kind in ("psnr", "ssim")),
    "cpu_seconds",
)


class Training(NamedTuple):
    """A training of the table: ``times`` as long as most, and with ``urban`` measured on Urban100 too."""

    genotype: Names
    seed: int = 0
    times: float = 1.0
    nf: int = SETTINGS["nf"]
    urban: bool = False

    @property
    def key(self) -> Names:
        """What tells it from the others in the CSV, but for its length."""
        return (*self.genotype, str(self.nf), str(self.seed))


def trainings() -> list[Training]:
    """Return all trainings of the table, in an order in which every beginning of it is of use."""
    draws = random.Random(0).sample(EVERY, DRAWS)
    corners = [PUBLISHED, *PAPER, *((name,) * len(LABELS) for name in IMDN_OPERATIONS)]
    once = [Training(genotype, urban=place >= len(corners) + DRAWS - LAST) for place, genotype in enumerate([*corners, *draws])]
    repeated = [Training(genotype, seed) for genotype in draws[:REPEATED] for seed in SEEDS]
    long, short = ([Training(genotype, times=times) for genotype in draws[:count]] for count, times in (LONG, SHORT))
    wide = [Training(PUBLISHED, seed, nf=nf, urban=True) for seed in (0, *SEEDS) for nf in (SETTINGS["nf"], *WIDTHS)]
    first, half = len(corners) + LONG[0], len(once) // 2
    plan = [*once[:first], *repeated, *once[first:half], *wide, *short, *long, *once[half:]]
    return list({(item.key, item.times): item for item in plan}.values())


@cache
def validator_of(opt: str, overrides: tuple[str, ...]) -> Validator:
    """Return the validator of an option file, which a process makes once."""
    options = load_options(training_options, opt, overrides)
    return find_task(options.task).validator(options, torch.nn.Module(), None, torch.device("cpu"))


def train(training: Training, opt: str, overrides: tuple[str, ...], urban: str) -> dict[str, Any]:
    """Train and measure a network by an option file, with Urban100 in the folder ``urban``; return its line of the CSV."""
    torch.set_num_threads(1)
    started, usual = time.process_time(), load_options(training_options, opt, overrides).train.total_iter
    if training.urban:
        overrides = (*overrides, *(f"datasets:val_4:{word}" for word in (f"name={URBAN}", "type=folder", f"dataroot_gt={urban}")))
    words = [f"network_g:genotype=[{','.join(training.genotype)}]", f"network_g:nf={training.nf}", f"manual_seed={training.seed}"]
    options = load_options(training_options, opt, [*overrides, *words, f"train:total_iter={round(usual * training.times)}"])
    images, network, _ = build_training(options)
    network = network.to(memory_format=torch.channels_last)  # its steps take about a seventh less time on a CPU
    trainer = build_trainer(options, images, network, torch.device("cpu"), "fp32")
    parent = parent_process()
    for _ in trainer.steps():
        if parent and not parent.is_alive():
            os._exit(1)  # not sys.exit, which the pool would take for the end of this one training
    validator = validator_of(opt, overrides)
    row: dict[str, Any] = dict(zip(LABELS, training.genotype, strict=True))
    row |= {"nf": training.nf, "seed": training.seed, "iterations": options.train.total_iter}
    for name, scores in validator.means({"val": validator.measure(trainer.averaged)}).items():
        row |= {f"{name}_psnr": f"{scores['psnr']:.4f}", f"{name}_ssim": f"{scores['ssim']:.5f}"}
    return row | {"cpu_seconds": round(time.process_time() - started)}


def of_searches(folders: Sequence[Path]) -> list[Training]:
    """Return trainings, from all seeds, of the networks of finished searches; UserError for a search of another space."""
    genotypes = [Genotype.from_json(read_genotype(folder)) for folder in folders]
    for folder, genotype in zip(folders, genotypes, strict=True):
        if genotype.arch != IMDN.arch:
            raise UserError(f"--runs {folder}: the table has networks of {IMDN.arch}, and this is one of {genotype.arch}.")
    names = dict.fromkeys(tuple(genotype[label][0] for label in LABELS) for genotype in genotypes)
    return [Training(each, seed, urban=seed == 0) for seed in (0, *SEEDS) for each in names]


def train_all(args: Namespace) -> int:
    """Train what the CSV lacks, on some processes; return the exit code."""
    overrides = tuple(args.force_yml)
    usual = load_options(training_options, str(args.opt), overrides).train.total_iter
    done = {(*(row[name] for name in (*LABELS, "nf", "seed")), int(row["iterations"])) for row in read_trainings(args.csv)}
    left = [
        item
        for item in (of_searches(args.runs) if args.runs else trainings())
        if (*item.key, round(usual * item.times)) not in done
    ][: args.most]
    console, started = Console(markup=False, highlight=False), time.monotonic()
    trained, total = 0.0, sum(item.times for item in left)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(train, item, str(args.opt), overrides, args.urban): item for item in left}
        for future in as_completed(futures):
            row, fresh = future.result(), not args.csv.exists()
            known = truth(SETTINGS | {"genotype": futures[future].genotype}) if args.runs else None
            with args.csv.open("a", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
                if fresh:
                    writer.writeheader()
                writer.writerow(row)
            trained += futures[future].times
            remaining = (time.monotonic() - started) / trained * (total - trained)
            table = [f"by the table {name} {one['psnr']}" for name, one in (known or {}).items()]
            console.print(*row.values(), *table, f"({trained:.0f} of {total:.0f}, {duration(remaining)} left)", soft_wrap=True)
    return 0


def totals(cost: Cost) -> Numbers:
    """Return the cost of every network, in the order of :data:`EVERY`."""
    return (cost.fixed + sum(np.ix_(*(cost.table[label].numpy() for label in LABELS)), np.zeros(()))).ravel()


def predictors() -> dict[str, Callable[[], Any]]:
    """Return the regressions that compete, by name."""
    kernel = ConstantKernel() * RBF(4.0 * np.ones(4 * len(LABELS) + 2), (0.1, 1000)) + WhiteKernel(0.1)
    # What does not matter to the PSNR goes to the longest scale there is, which is no failure.
    warnings.simplefilter("ignore", ConvergenceWarning)
    trees = {"n_estimators": 400, "max_depth": 4, "learning_rate": 0.05, "subsample": 0.7, "random_state": 0}
    return {
        "ridge of pairs": lambda: make_pipeline(PolynomialFeatures(2), StandardScaler(), RidgeCV(np.logspace(-1, 4, 11))),
        "Gaussian process": lambda: make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)),
        "boosted trees": lambda: GradientBoostingRegressor(**trees),
    }


def by_set(values: Sequence[Any] | Numbers) -> dict[str, float]:
    """Return data set -> value."""
    return {name: round(float(value), 4) for name, value in zip(DATA_SETS, values, strict=True)}


def tau(first: Numbers, second: Numbers) -> dict[str, float]:
    """Return Kendall's tau between two matrices ``[networks, data sets]``, by set."""
    return by_set([kendalltau(*columns).statistic for columns in zip(first.T, second.T, strict=True)])


def fit(args: Namespace) -> int:
    """Predict all networks from those of the CSV; write the table and what is known of its quality; return the exit code."""
    usual = load_options(training_options, str(args.opt), args.force_yml, check_files=False).train.total_iter
    scores: dict[int, list[list[float]]] = {}
    others: dict[int, dict[int, list[float]]] = {}
    rows = read_trainings(args.csv)
    for row in (row for row in rows if int(row["nf"]) == SETTINGS["nf"]):
        index, values = place([row[label] for label in LABELS]), [float(row[f"{name}_psnr"]) for name in DATA_SETS]
        if int(row["iterations"]) == usual:
            scores.setdefault(index, []).append(values)
        else:
            others.setdefault(int(row["iterations"]), {})[index] = values
    space: Any = IMDNSpace(**SETTINGS)
    latency = read_latency(args.latency, space, foreign=True) if args.latency else None
    asked = ["macs_hr", "params", *["latency_ms"] * (latency is not None)]
    costs = {name: totals(cost) for name, cost in network_costs(space, dict.fromkeys(asked, math.inf), latency).items()}

    kinds = [[float(kind in name) for name in names for kind in ("ds", "dil", "5x5", "bn")] for names in EVERY]
    known = np.column_stack([kinds, np.log(costs["macs_hr"]), np.log(costs["params"])])
    indices = sorted(scores)
    trained = np.array([np.mean(scores[index], axis=0) for index in indices])
    folds = KFold(5, shuffle=True, random_state=0)
    quality: dict[str, Any] = {}
    for name, regression in predictors().items():
        columns = [cross_val_predict(regression(), known[indices], column, cv=folds) for column in trained.T]
        guess = np.stack(columns, axis=1)
        quality[name] = {"tau": tau(guess, trained), "mean_error": by_set(np.abs(guess - trained).mean(axis=0))}
    chosen = max(quality, key=lambda name: sum(quality[name]["tau"].values()))
    predicted = np.stack([predictors()[chosen]().fit(known[indices], y).predict(known) for y in trained.T], axis=1)

    psnr, seeds = predicted.copy(), np.zeros(len(EVERY), np.int8)
    psnr[indices], seeds[indices] = trained, [len(scores[index]) for index in indices]
    several = [np.var(values, axis=0, ddof=1) for values in scores.values() if len(values) > 1]
    lengths = {count: {index: values for index, values in of.items() if index in scores} for count, of in sorted(others.items())}
    report = {
        "iterations": usual,
        "trainings": len(rows),
        "networks": len(indices),
        "cpu_hours": round(sum(float(row["cpu_seconds"]) for row in rows) / 3600, 1),
        "sd_of_networks": by_set(trained.std(axis=0, ddof=1)),
        "sd_of_seeds": by_set(np.sqrt(np.mean(several, axis=0))) if several else None,
        "tau_with_other_lengths": {
            count: {"networks": len(of)} | tau(psnr[list(of)], np.array(list(of.values()))) for count, of in lengths.items() if of
        },
        "regression": chosen,
        "cross_validation": quality,
    }
    numbers = {"psnr": psnr.astype(np.float32), "predicted": predicted.astype(np.float32), "trained": seeds}
    numbers |= {name: values.astype(np.float32 if name == "latency_ms" else np.int64) for name, values in costs.items()}
    np.savez_compressed(args.csv.with_name(FILE), **numbers)
    write_json(args.csv.with_name(FILE).with_suffix(".json"), report)
    print(json.dumps(report, indent=2))
    return 0


def make_parser() -> ArgumentParser:
    """The arguments of both jobs."""
    parser = ArgumentParser(prog="build_benchmark", description=__doc__)
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    first = jobs.add_parser("train", help="train the networks that the CSV lacks")
    first.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="trainings at a time (default: 1)")
    text = "train the networks of these searches, from three seeds, and none of the plan"
    first.add_argument("--runs", nargs="+", type=Path, default=[], metavar="RUN", help=text)
    text = "folder of Urban100's HR images (default: datasets/Urban100/HR)"
    first.add_argument("--urban", default="datasets/Urban100/HR", metavar="DIR", help=text)
    first.add_argument("--most", type=whole_number, metavar="N", help="train so many at most")
    first.set_defaults(run=train_all)
    second = jobs.add_parser("fit", help="predict all networks, and write the table beside the CSV")
    second.add_argument("--latency", type=Path, metavar="FILE", help="table of tools/latency.py for networks of this size")
    second.set_defaults(run=fit)
    for sub in (first, second):
        sub.add_argument("-opt", type=Path, default=OPTIONS, metavar="FILE", help="option file of all trainings")
        sub.add_argument("--csv", type=Path, default=CSV, metavar="FILE", help="a line for each training")
        text = "override options, such as the folders of the data"
        sub.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job; return its exit code."""
    args = make_parser().parse_args(arguments)
    return with_errors_printed("build_benchmark", lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
