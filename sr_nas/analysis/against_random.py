"""A search beside chance: its network, random ones and a hand-made one of equal cost, all trained alike, compared in pairs.

Li & Talwalkar (2019) and Yang et al. (2020) ask for this comparison: a search that does not beat the mean random network of its
space at equal cost has found nothing, however good its network is.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from pydantic import ValidationError
from rich.console import Console
from scipy.stats import t as student

from sr_nas.analysis.history import Trials
from sr_nas.analysis.tables import Report, Table, open_output, write_csv, write_numbers
from sr_nas.complexity.costs import measure
from sr_nas.complexity.latency import read_latency
from sr_nas.contracts import Place, SearchSpace, SRNetwork, reparameterized
from sr_nas.errors import UserError, parse_json, short
from sr_nas.genotype import Genotype, read_genotype
from sr_nas.jobs.run import Run
from sr_nas.jobs.search import FRONT, GENOTYPE, run_search
from sr_nas.jobs.train import run_training
from sr_nas.options.load import check_options, load_options
from sr_nas.options.sections import AnySearch, AnyTraining, NetworkOptions
from sr_nas.registry import NETWORKS
from sr_nas.report.plots import COLOURS, FAINT, Values, new_figure, save, style
from sr_nas.report.progress import duration
from sr_nas.runs.files import write_text
from sr_nas.runs.run_dir import HISTORY, read_history
from sr_nas.search.budget import Cost, draw
from sr_nas.task import Task, find_task, network_costs, search_options, training_options

BAND = 0.05
"""Cost of a random network differs from that of the searched one by at most this share of it."""
NEAR = 0.1
"""Share of the cost from which the hand-made network is said not to be of equal cost."""
MOST_WIDTH = 1024
SEARCHED, RANDOM, HANDMADE, OF_FRONT = "searched", "random", "handmade", "front"


@dataclass(frozen=True)
class Contender:
    """A network of the comparison: its genotype, the option block that trains it, and its registered costs."""

    name: str
    genotype: Genotype
    block: Mapping[str, Any]
    costs: Mapping[str, float]


def main(args: Namespace) -> int:
    """Run ``search --against-random``: search, train all networks, write the comparison; return the exit code.

    The search and the trainings are runs of their own, which go on where they were stopped; those that are done stay as they are.
    """
    console = Console(markup=False, highlight=False)
    options = load_options(search_options, args.opt, args.force_yml)
    if options.task != SRNetwork.task:
        raise UserError(f"--against-random compares networks of super-resolution, and {args.opt} is of {options.task}.")
    task, section = find_task(options.task), options.search
    space = task.space(options)
    latency = read_latency(Path(section.latency_table), space, section.foreign_latency) if section.latency_table else None
    names = dict.fromkeys([*list(section.budget.limits())[:1], "macs_hr", "params"], math.inf)
    costs = network_costs(space, names, latency)
    recipe = read_recipe(args.training, options, space.arch)
    # So that a wrong option of the training is an error before the search.
    first = draw(space, [], 1, np.random.default_rng(0))[0]
    root = Path(options.path.experiments_root)
    training_of(recipe, task.network_block(space.derive(first)), args.training, options.name, 0, root)
    folder, code = _finished(options), 0
    if folder is None or args.front:
        folder, code = run_search(options, console, True, args.front)
    if code:
        return code

    genotype = Genotype.from_json(read_genotype(folder))
    contenders, notes = line_up(task, space, genotype, costs, args.against_random, options.manual_seed)
    contenders += of_front(task, space, costs, folder, args.front) if args.front else []
    seeds = args.training_seeds or [recipe.manual_seed]
    plan = [
        training_of(recipe, each.block, args.training, f"{folder.name}-{recipe.name}-{each.name}_seed{seed}", seed, root)
        for seed, each in product(seeds, contenders)  # a stop leaves some seeds with all networks
    ]
    runs, code = train_all(plan, console)
    if code:
        return code
    results = {key: runs[place] for place, key in enumerate(product(seeds, (each.name for each in contenders)))}
    source = {"search": str(folder), "training": args.training, "cost": next(iter(costs)), "seeds": seeds, "notes": notes}
    write_comparison(f"{folder.name}-against_random", contenders, results, list(recipe.datasets.validation()), source, console)
    return 0


def read_recipe(path: str, options: AnySearch, arch: str) -> AnyTraining:
    """Read the option file of the trainings, whose network is to be replaced; UserError where it does not fit the search."""
    recipe = load_options(training_options, path, check_files=False)
    for key, theirs, ours in (
        ("task", recipe.task, options.task),
        ("scale", getattr(recipe, "scale", None), getattr(options, "scale", None)),
        ("network_g.type", recipe.network_g.type, arch),
    ):
        if theirs != ours:
            raise UserError(f"--training {path}: {key} is {theirs}, and {ours} in the search. Name a training for its networks.")
    if not recipe.datasets.validation():
        raise UserError(f"--training {path}: it has no validation set, datasets.val, to compare the networks on.")
    if recipe.path.pretrain_network_g:
        raise UserError(f"--training {path}: path.pretrain_network_g fits one network, and all start from scratch. Leave it out.")
    return recipe


def training_of(recipe: AnyTraining, block: Mapping[str, Any], path: str, name: str, seed: int, root: Path) -> AnyTraining:
    """Return the recipe for another network, name and seed, whose runs lie in ``root``; UserError for a wrong option."""
    raw = recipe.model_dump(mode="json", exclude_none=True) | dict(block) | {"name": name, "manual_seed": seed}
    raw["path"] |= {"experiments_root": str(root)}
    return check_options(type(recipe), raw, path)


def line_up(
    task: Task, space: SearchSpace, genotype: Genotype, costs: Mapping[str, Cost], count: int, seed: int
) -> tuple[list[Contender], list[str]]:
    """Return the searched network, random ones of the same cost, and the hand-made one of the nearest; and remarks on them.

    Args:
        task: of the networks.
        space: of the search.
        genotype: that was searched.
        costs: of the networks of the space, whose limits do not matter. The first one is to be the same for all.
        count: of random networks.
        seed: of the draws, the same in every call.

    Raises:
        UserError: the band holds no other network.
    """

    def contender(title: str, network: Any) -> Contender:
        counts = {each: cost.of(network.genotype, choices) for each, cost in costs.items()}
        return Contender(title, network.genotype, task.network_block(network), counts)

    def measured(cost: str, network: SRNetwork) -> float:
        return measure(cost, reparameterized(network), Place(scale=network.scale))

    name, choices = next(iter(costs)), space.choices()
    target = costs[name].of(genotype, choices)
    band = [replace(costs[name], limit=target)]
    drawn = draw(space, band, count + 1, np.random.default_rng(seed), 1 - BAND, 1 + BAND)
    others = [other for other in drawn if _unordered(other) != _unordered(genotype)][:count]
    if not others:
        raise UserError(
            f"no other network of {space.arch} is within {BAND:.0%} of {name} {short(target)}: {genotype} stands alone."
        )
    notes = [f"random networks: {len(others)} of {name} {short(target)} ± {BAND:.0%}, each network of this band as likely"]
    if len(others) < count:
        notes[0] += f"; that is all of them, and {count} were asked for"
    searched = contender(SEARCHED, space.derive(genotype))
    contenders = [searched, *(contender(f"{RANDOM}{number}", space.derive(other)) for number, other in enumerate(others))]
    by = "macs_hr" if name == "latency_ms" else name  # a table of latencies knows networks of its own width alone
    network = hand_made(searched.block, lambda network: measured(by, network), searched.costs[by])
    if network is None:
        return contenders, [*notes, f"hand-made network: none, as {space.arch} has no published genotype of this size"]
    counts = {each: math.nan if each == "latency_ms" else measured(each, network) for each in costs}
    contenders.append(Contender(HANDMADE, network.genotype, block := task.network_block(network), counts))
    off = counts[by] / searched.costs[by] - 1
    far = f", which is not the same cost: no width comes within {NEAR:.0%}" if abs(off) > NEAR else ""
    notes.append(f"hand-made network: the published genotype at nf {block['network_g']['nf']}, {off:+.1%} in {by}{far}")
    return contenders, notes


def of_front(
    task: Task, space: SearchSpace, costs: Mapping[str, Cost], folder: Path, budgets: Sequence[float]
) -> list[Contender]:
    """Return the best network of a finished search for each of some budgets of the front's cost, where there is one.

    Networks that two budgets share are returned once. They are trained like the others and drawn beside them, but compared with
    none, since their costs differ.
    """
    content, choices, contenders = parse_json((folder / FRONT).read_bytes(), folder / FRONT), space.choices(), []
    best = {budget: [row for row in content["networks"] if row[content["cost"]] <= budget][:1] for budget in budgets}
    for budget, row in {str(rows): (budget, rows[0]) for budget, rows in best.items() if rows}.values():
        network: Any = space.derive(Genotype.from_json(row["genotype"]))
        counts = {each: cost.of(network.genotype, choices) for each, cost in costs.items()}
        contenders.append(Contender(f"{OF_FRONT}{short(budget)}", network.genotype, task.network_block(network), counts))
    return contenders


def _unordered(genotype: Genotype) -> dict[str, set[str]]:
    return {label: set(names) for label, names in genotype.picks}


def hand_made(block: Mapping[str, Any], cost_of: Callable[[SRNetwork], float], target: float) -> SRNetwork | None:
    """Return the network of the published genotype whose width ``nf`` makes its cost, which grows with it, nearest to ``target``.

    Its other settings are those of ``block``. ``None`` where it has no genotype by default, or no width.
    """
    size, options = {key: value for key, value in block["network_g"].items() if key != "genotype"}, {}
    for width in range(1, MOST_WIDTH + 1):
        with suppress(ValidationError):
            options[width] = NetworkOptions.model_validate({**block, "network_g": size | {"nf": width}})
    if size.get("nf") not in options:
        return None

    def build(width: int) -> SRNetwork:
        network: SRNetwork = NETWORKS.build(options[width].network_g)(scale=options[width].scale)
        return network

    widths, cost = list(options), cache(lambda width: cost_of(build(width)))
    # Counting takes seconds in some networks. Costs grow about as the square of the width, which says where to begin.
    place = min(bisect(widths, size["nf"] * math.sqrt(target / cost(size["nf"]))), len(widths) - 1)
    while place and cost(widths[place]) > target:
        place -= 1
    while place + 1 < len(widths) and cost(widths[place]) < target:
        place += 1
    nearest = min(widths[max(place - 1, 0) : place + 1], key=lambda width: abs(cost(width) - target))
    return build(nearest)


def train_all(plan: Sequence[AnyTraining], console: Console) -> tuple[list[Path], int]:
    """Train what is not trained yet; return the run folders, and the exit code of a training that a signal stopped, else 0.

    Raises:
        UserError: a run of one of these names has other options, which is seen before the first is trained; or a training fails.
    """
    folders = {options.name: _finished(options) for options in plan}
    waiting = [options for options in plan if folders[options.name] is None]
    start = time.monotonic()
    for number, options in enumerate(waiting):
        seconds = (time.monotonic() - start) / number * (len(waiting) - number) if number else None
        left = f"; about {duration(seconds)} left for all" if number else ""
        console.print(f"training {len(plan) - len(waiting) + number + 1} of {len(plan)}: {options.name}{left}", soft_wrap=True)
        folders[options.name], code = run_training(options, console, True)
        if code:
            console.print("The same command goes on.")
            return [], code
    return [folder for folder in folders.values() if folder], 0


def _finished(options: AnySearch | AnyTraining) -> Path | None:
    """Return the folder of a run of these options that has come to its end."""
    folder = Run.create_or_resume(options, True).resumed
    if folder is None or not (folder / HISTORY).is_file() or not (last := read_history(folder)[-1:]):
        return None
    if isinstance(options, AnySearch):
        return folder if last[0].get("epoch") == options.search.epochs and (folder / GENOTYPE).is_file() else None
    return folder if last[0].get("iteration") == options.train.total_iter else None


def compare(scores: Mapping[str, Values]) -> dict[str, Any]:
    """Return what the networks of one data set come to, JSON-ready.

    ``minus_random``, ``minus_best`` and ``minus_handmade`` are differences of the searched network to the mean random one, to
    the best of the random ones (by its mean, so chosen afterwards) and to the hand-made one, paired by seed. The relative
    improvement is that of Yang et al. (2020, section 3), in percent. ``rank`` 1 of ``of`` is best; a random network is
    ranked as high with probability rank / of.

    Args:
        scores: network -> PSNR by seed, ``[seeds]``.
    """
    searched, drawn = scores[SEARCHED], {name: values for name, values in scores.items() if name.startswith(RANDOM)}
    mean = np.mean(list(drawn.values()), axis=0)
    best = max(drawn, key=lambda name: float(drawn[name].mean()))
    others = {"random": mean, "best": drawn[best]} | ({"handmade": scores[HANDMADE]} if HANDMADE in scores else {})
    return {
        **{f"minus_{name}": paired(searched - values) for name, values in others.items()},
        "relative_improvement": float(100 * (searched.mean() - mean.mean()) / mean.mean()),
        "best": best,
        "rank": 1 + sum(bool(values.mean() >= searched.mean()) for values in drawn.values()),
        "of": len(drawn) + 1,
    }


def paired(differences: Values) -> dict[str, float]:
    """Return mean, sample standard deviation, and the 95 % interval of the mean by Student's t; NaN for a single pair."""
    pairs = len(differences)
    sd = float(np.std(differences, ddof=1)) if pairs > 1 else math.nan
    mean, half = float(np.mean(differences)), float(student.ppf(0.975, max(pairs - 1, 1))) * sd / math.sqrt(pairs)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "pairs": pairs}


def write_comparison(
    name: str,
    contenders: Sequence[Contender],
    runs: Mapping[tuple[int, str], Path],
    sets: Sequence[str],
    source: dict[str, Any],
    console: Console,
) -> None:
    """Write the comparison into a new folder of analyses as JSON, CSV, Markdown and PNG, and print it."""
    last = {key: list(read_history(folder)[-1]["val"].values()) for key, folder in runs.items()}
    seeds, cost = source["seeds"], source["cost"]
    psnr = {
        title: {each.name: np.array([last[seed, each.name][place]["psnr"] for seed in seeds]) for each in contenders}
        for place, title in enumerate(sets)
    }
    comparisons = {title: compare(scores) for title, scores in psnr.items()}
    networks, rows, trainings = [], [], []
    for each in contenders:
        about = {"network": each.name, "genotype": str(each.genotype)}
        cells = {title: Trials([0], scores[each.name][:, None]).last(1, ".3f", ".3f") for title, scores in psnr.items()}
        costs = {key: "-" if math.isnan(value) else short(value) for key, value in each.costs.items()}
        rows.append(about | costs | {f"{title}, dB": text for title, text in cells.items()})
        values = {title: scores[each.name].tolist() for title, scores in psnr.items()}
        networks.append(about | {**each.block, **each.costs, "psnr": values})
        for seed in seeds:
            record = zip(sets, last[seed, each.name], strict=True)
            metrics = {f"{title}_{metric}": one[metric] for title, one in record for metric in ("psnr", "ssim")}
            trainings.append({**about, **each.costs, "seed": seed, **metrics, "run": str(runs[seed, each.name])})
    verdicts = [_verdict(title, comparison) for title, comparison in comparisons.items()]
    notes = [
        *source["notes"],
        "PSNR after the last iteration, of one seed: by how much another seed moves it is not known"
        if len(seeds) == 1
        else f"PSNR after the last iteration, mean ± standard deviation over {len(seeds)} seeds; differences of the searched "
        "network are paired by seed, in brackets the 95 % interval of their mean",
        f"a random network is ranked first of {comparisons[sets[0]]['of']} with probability {1 / comparisons[sets[0]]['of']:.2f}",
    ]
    folder = open_output(None, name)
    write_numbers(folder / "comparison.json", source | {"notes": notes, "networks": networks, "sets": comparisons})
    write_csv(folder / "trainings.csv", trainings)
    texts = [Table(rows).markdown(), Table(verdicts).markdown(), "\n".join(f"- {note}" for note in notes)]
    write_text(folder / "comparison.md", "\n\n".join(texts) + "\n")
    by = "macs_hr" if cost == "latency_ms" else cost
    save(comparison_figure(by, {each.name: each.costs[by] for each in contenders}, psnr), folder / "comparison.png")
    Table(rows).print(console)
    Report(folder, verdicts, notes).print(console)


def _verdict(title: str, comparison: Mapping[str, Any]) -> dict[str, str]:
    def text(key: str) -> str:
        if key not in comparison:
            return "-"
        mean, sd, low, high = (comparison[key][part] for part in ("mean", "sd", "low", "high"))
        return f"{mean:+.3f}" if math.isnan(sd) else f"{mean:+.3f} ± {sd:.3f} [{low:+.3f}, {high:+.3f}]"

    drawn = comparison["of"] - 1
    return {
        "dB of searched minus": title,
        "mean random": text("minus_random"),
        "hand-made": text("minus_handmade"),
        f"best of {drawn} random": f"{text('minus_best')} ({comparison['best']})",
        "relative improvement": f"{comparison['relative_improvement']:+.3f} %",
        "rank": f"{comparison['rank']} of {comparison['of']}",
    }


def comparison_figure(cost: str, costs: Mapping[str, float], psnr: Mapping[str, Mapping[str, Values]]) -> Figure:
    """Draw PSNR against cost, a panel per data set: bars of one standard deviation over the seeds, a line at the random mean.

    Args:
        cost: its name.
        costs: network -> cost.
        psnr: data set -> network -> PSNR by seed, ``[seeds]``.
    """
    looks = {RANDOM: (FAINT, "o"), HANDMADE: (COLOURS[1], "s"), OF_FRONT: (COLOURS[2], "^"), SEARCHED: (COLOURS[0], "D")}
    figure = new_figure(4.2 * len(psnr) + 0.4, 3.6)
    for axes, (title, scores) in zip(figure.subplots(1, len(psnr), squeeze=False)[0], psnr.items(), strict=True):
        for kind, (colour, marker) in looks.items():
            if not (names := [name for name in scores if name.startswith(kind)]):
                continue
            means = [float(scores[name].mean()) for name in names]
            bars = [float(scores[name].std(ddof=1)) if len(scores[name]) > 1 else 0.0 for name in names]
            look: dict[str, Any] = {"color": colour, "linestyle": "none", "capsize": 3, "label": kind}
            axes.errorbar([costs[name] for name in names], means, bars, marker=marker, **look)
            if kind == RANDOM:
                axes.axhline(float(np.mean(means)), color=colour, linewidth=1.0, linestyle=":")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        style(axes, title, cost, "PSNR, dB")
        axes.legend(frameon=False, fontsize=8)
    return figure
