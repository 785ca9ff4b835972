"""Selections by beta alone, in which candidates have no part that the argmax would keep. Those by losses: ``selection.py``."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le

from sr_nas.errors import UserError
from sr_nas.genotype import Choices, Genotype
from sr_nas.registry import SELECTIONS
from sr_nas.search.searcher import Searcher, Selection

SKIP = "skip_connect"


def _without_budgets(searcher: Searcher, name: str) -> Choices:
    """Return the choices of a search without budgets; raise UserError where it has some."""
    if searcher.budgets:
        raise UserError(f"search.selection: {name} leaves candidates out, whatever search.budget asks for. Set one of them.")
    choices: Choices = searcher.space.choices()
    return choices


@SELECTIONS.register("threshold")
def above_threshold(searcher: Searcher, *, threshold: Annotated[float, Ge(0), Le(1)] = 0.85) -> Selection:
    """The argmax without its candidates below a threshold, in whose place there is ``none`` (FairDARTS, Chu et al. 2020).

    A choice without a candidate ``none`` keeps its argmax, unless the space says itself that an edge without weights is ``none``
    (``never_kept``). The record says how many choices have no candidate above.

    Args:
        searcher: of a space without budgets, else a UserError is raised.
        threshold: least beta of what is kept.
    """
    choices = _without_budgets(searcher, "threshold")

    def select() -> tuple[Genotype, dict[str, float]]:
        weights, below = dict(searcher.beta()), 0
        by_weight = "none" in getattr(searcher.space, "never_kept", ())
        for label, beta in weights.items():
            names, kept = choices[label].candidates, beta * (beta >= threshold)
            if by_weight and choices[label].of == "operations":
                weights[label] = kept
                below += not any(weight for name, weight in zip(names, kept.tolist(), strict=True) if name != "none")
            elif "none" in names:
                place = names.index("none")
                kept[place] = kept[place].clamp_min(torch.finfo(beta.dtype).tiny)
                weights[label] = kept
                below += int(kept.argmax() == place)
        return searcher.space.decode(weights), {"below_threshold": below}

    return select


@SELECTIONS.register()
def limited_skips(searcher: Searcher, *, skips: Annotated[int, Ge(0), Le(10**6)] = 2, cells: str = "") -> Selection:
    """The argmax with few skip connections (P-DARTS, Chen et al., ICCV 2019, section 3.3).

    While there are too many, the skip connection of the smallest beta gets a beta of 0, and the network is decoded anew. The
    record says how many of the network there are, and how many lost their beta, those included that no network had.

    Args:
        searcher: of a space without budgets, else a UserError is raised.
        skips: most skip connections of the network.
        cells: begin of the labels whose skip connections count, such as ``normal``; by default all do.
    """
    choices = _without_budgets(searcher, "limited_skips")
    check_cells(searcher.genotype(), cells, "search.selection")

    def select() -> tuple[Genotype, dict[str, float]]:
        weights, removed = {label: beta.clone() for label, beta in searcher.beta().items()}, 0
        places = {label: choice.candidates.index(SKIP) for label, choice in choices.items() if SKIP in choice.candidates}
        # One that the network lacks may be a smaller one: then it changes nothing, and would be the next if it came in.
        weakest = sorted((label for label in places if label.startswith(cells)), key=lambda label: weights[label][places[label]])
        while skip_connections(genotype := searcher.space.decode(weights), cells) > skips and removed < len(weakest):
            weights[label := weakest[removed]][places[label]] = 0
            removed += 1
        return genotype, {"skip_connections": skip_connections(genotype, cells), "skips_removed": removed}

    return select


def skip_connections(genotype: Genotype, cells: str) -> int:
    """Return the number of skip connections under labels that begin with ``cells``."""
    picks = [names for label, names in genotype.picks if label.startswith(cells)]
    return sum(name.partition("~")[0] == SKIP for names in picks for name in names)


def check_cells(genotype: Genotype, cells: str, section: str) -> None:
    """Raise UserError where no label of a genotype begins with ``cells``, an option of ``section``."""
    if not any(label.startswith(cells) for label, _ in genotype.picks):
        raise UserError(f"{section}.cells: no label of the genotype begins with '{cells}'. Leave it out for all cells.")
