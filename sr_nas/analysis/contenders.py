"""A search beside chance: its networks, random ones and a hand-made one of equal cost; and what their trainings say in pairs.

Li & Talwalkar (2019) and Yang et al. (2020) ask for this comparison: a search that does not beat the mean random network of its
space at equal cost has found nothing, however good its network is.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from scipy.stats import t as student

from sr_nas.complexity.costs import measure
from sr_nas.complexity.latency import read_latency
from sr_nas.contracts import Place, SearchSpace, SRNetwork, reparameterized
from sr_nas.errors import UserError, parse_json, short
from sr_nas.genotype import Genotype, read_genotype
from sr_nas.options.load import load_options
from sr_nas.options.sections import AnySearch, AnyTraining, NetworkOptions
from sr_nas.registry import NETWORKS
from sr_nas.report.page import FRONT
from sr_nas.report.plots import Values
from sr_nas.runs.run_dir import OPTIONS
from sr_nas.search.budget import Cost, draw
from sr_nas.task import Task, find_task, network_costs, search_options

BAND = 0.05
"""Costs of random networks differ from those of the searched ones by at most this share of them."""
NEAR = 0.1
"""Share of the cost from which the hand-made network is said not to be of equal cost."""
MOST_WIDTH = 1024
SEARCHED, RANDOM, HANDMADE, OF_FRONT = "searched", "random", "handmade", "front"


@dataclass(frozen=True)
class Contender:
    """A network to train: its name, which begins with its kind; its genotype, option block and cost."""

    name: str
    genotype: Genotype
    block: Mapping[str, Any]
    cost: float


def read_contenders(run: Path, recipe: AnyTraining, best: int, count: int | None) -> tuple[list[Contender], list[str]]:
    """Return the networks of a finished search to train, with random ones and a hand-made one beside them; and remarks.

    Args:
        run: folder of the search.
        recipe: options of the trainings.
        best: number of networks of the search: the selected one, and those of its front that alpha prefers within the budget.
        count: of random networks; ``None`` for the search's alone.

    Raises:
        UserError: the folder has no front, the recipe is not for its networks, or no other network is of their cost.
    """
    if not (run / FRONT).is_file():
        raise UserError(f"--front {run}: there is no {FRONT}; name the folder of a finished search whose costs add up.")
    options = load_options(search_options, run / OPTIONS, check_files=False)
    task, section = find_task(options.task), options.search
    space = task.space(options)
    check_recipe(recipe, options, space.arch)
    content = parse_json((run / FRONT).read_bytes(), run / FRONT)
    try:
        name, rows = content["cost"], sorted(content["networks"], key=lambda row: -row["log_beta"])
        limit = section.budget.limits().get(name, math.inf)
        front = [Genotype.from_json(row["genotype"]) for row in rows if row[name] <= limit]
    except (KeyError, TypeError) as error:
        raise UserError(f"{run / FRONT} is damaged; the search writes it again: sr-nas search --auto_resume.") from error
    latency = read_latency(Path(section.latency_table), space, section.foreign_latency) if section.latency_table else None
    names = [name, *(["macs_hr"] if options.task == SRNetwork.task else [])]  # what a table of latencies cannot tell
    costs = network_costs(space, dict.fromkeys(names, math.inf), latency)
    genotypes = [Genotype.from_json(read_genotype(run))]
    genotypes += [genotype for genotype in front if genotype != genotypes[0]][: best - 1]
    return line_up(task, space, genotypes, {name: costs[name], **costs}, count, options.manual_seed)


def check_recipe(recipe: AnyTraining, options: AnySearch, arch: str) -> None:
    """Raise UserError where a training is not for the networks of a search."""
    for key, theirs, ours in (
        ("task", recipe.task, options.task),
        ("scale", getattr(recipe, "scale", None), getattr(options, "scale", None)),
        ("network_g.type", recipe.network_g.type, arch),
    ):
        if theirs != ours:
            raise UserError(f"{recipe.name}: {key} is {theirs}, and {ours} in the search. Name a training for its networks.")
    if recipe.path.pretrain_network_g:
        raise UserError(f"{recipe.name}: path.pretrain_network_g fits one network, and all start from scratch. Leave it out.")


def line_up(
    task: Task, space: SearchSpace, genotypes: list[Genotype], costs: Mapping[str, Cost], count: int | None, seed: int
) -> tuple[list[Contender], list[str]]:
    """Return the networks of a search, random ones of the same costs, and the hand-made one of the nearest; and remarks on them.

    Args:
        task: of the networks.
        space: of the search.
        genotypes: of the search, first the selected one.
        costs: of the networks of the space, whose limits do not matter. The first one is to be the same for all.
        count: of random networks.
        seed: of the draws, the same in every call.

    Raises:
        UserError: the band holds no other network.
    """
    name, choices = next(iter(costs)), space.choices()

    def contender(title: str, network: Any) -> Contender:
        return Contender(title, network.genotype, task.network_block(network), costs[name].of(network.genotype, choices))

    def measured(cost: str, network: SRNetwork) -> float:
        return measure(cost, reparameterized(network), Place(scale=network.scale))

    names = [SEARCHED, *(f"{OF_FRONT}{number}" for number in range(1, len(genotypes)))]
    contenders = [contender(title, space.derive(one)) for title, one in zip(names, genotypes, strict=True)]
    if not count:
        return contenders, []
    least, most = (end(each.cost for each in contenders) for end in (min, max))
    band = [replace(costs[name], limit=most)]
    drawn = draw(space, band, count + len(genotypes), np.random.default_rng(seed), (1 - BAND) * least / most, 1 + BAND)
    known = [_unordered(genotype) for genotype in genotypes]
    others = [other for other in drawn if _unordered(other) not in known][:count]
    text = f"{name} {short(least)}" + (f" to {short(most)}" if most > least else "")
    if not others:
        raise UserError(f"no other network of {space.arch} is within {BAND:.0%} of {text}: {genotypes[0]} stands alone.")
    notes = [f"random networks: {len(others)} of {text} ± {BAND:.0%}, each network of this band as likely"]
    if len(others) < count:
        notes[0] += f"; that is all of them, and {count} were asked for"
    contenders += [contender(f"{RANDOM}{number}", space.derive(other)) for number, other in enumerate(others)]
    by = "macs_hr" if name == "latency_ms" else name  # a table of latencies knows networks of its own width alone
    target = costs[by].of(genotypes[0], choices)
    network = hand_made(contenders[0].block, lambda network: measured(by, network), target)
    if network is None:
        return contenders, [*notes, f"hand-made network: none, as {space.arch} has no published genotype of this size"]
    block = task.network_block(network)
    contenders.append(Contender(HANDMADE, network.genotype, block, measured(by, network)))
    off = contenders[-1].cost / target - 1
    far = f", which is not the same cost: no width comes within {NEAR:.0%}" if abs(off) > NEAR else ""
    notes.append(f"hand-made network: the published genotype at nf {block['network_g']['nf']}, {off:+.1%} in {by}{far}")
    return contenders, notes


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


def verdict(title: str, comparison: Mapping[str, Any]) -> dict[str, str]:
    """Return a comparison as a row of a table."""

    def text(key: str) -> str:
        if key not in comparison:
            return "-"
        mean, sd, low, high = (comparison[key][part] for part in ("mean", "sd", "low", "high"))
        return f"{mean:+.3f}" if math.isnan(sd) else f"{mean:+.3f} ± {sd:.3f} [{low:+.3f}, {high:+.3f}]"

    drawn = comparison["of"] - 1
    return {
        "searched minus": title,
        "mean random": text("minus_random"),
        "hand-made": text("minus_handmade"),
        f"best of {drawn} random": f"{text('minus_best')} ({comparison['best']})",
        "relative improvement": f"{comparison['relative_improvement']:+.3f} %",
        "rank": f"{comparison['rank']} of {comparison['of']}",
    }
