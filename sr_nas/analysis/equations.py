"""Equations of SA-DARTS in numbers: the shapes of its terms (figure 9), eq. 3 to 6 and 15 to 17 on a supernet, eq. 21 to 25."""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import spearmanr
from torch import Tensor, nn

from sr_nas.analysis.history import read_run
from sr_nas.analysis.landscape import load_searcher
from sr_nas.errors import UserError
from sr_nas.ops.mixed import MixedOp
from sr_nas.registry import REGULARIZERS
from sr_nas.report.plots import add_legend, line_styles, new_figure, save, style
from sr_nas.report.tables import Report, check_output, open_output, write_csv, write_numbers
from sr_nas.search.objective import ChoiceLogits

TERMS: dict[str, tuple[str, dict[str, float]]] = {
    "L2": ("l2", {}),
    "Beta-DARTS": ("beta", {}),
    "SA, nu 1 (eq. 8)": ("sa", {}),
    "SA, nu 0.25, mu 1e6": ("sa", {"nu": 0.25, "mu": 1e6}),
    "SA, nu 0.25, mu 2": ("sa", {"nu": 0.25, "mu": 2}),
    "SA, nu 0.25, mu 0": ("sa", {"nu": 0.25, "mu": 0}),
    "SA, nu 0, mu 1/sqrt 2": ("sa", {"nu": 0, "mu": 2**-0.5}),
}
OTHERS = 4
"""Logits beside the drawn one in Beta-DARTS's term, all 0, as of the five operations of NAS-Bench-201."""
EXACT = 1e-9
"""Relative error below which an equation holds."""


def main(args: Namespace) -> int:
    """Run ``analyze shapes``, ``equations`` or ``variances``; return the exit code."""
    check_output(args.output)
    console = Console(markup=False)
    if args.what == "shapes":
        shapes(args.output).print(console)
    elif args.what == "equations":
        equations(args.seed, args.output).print(console)
    else:
        variances(args.runs, args.force_yml, args.batches, args.output).print(console)
    return 0


def shape(name: str, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return a term of :data:`TERMS` without lambda, and its derivative, where one logit has these values, ``[points]`` each."""
    kind, options = TERMS[name]
    term, points = REGULARIZERS.get(kind), points.clone().requires_grad_()
    logits = torch.stack([points, *[torch.zeros_like(points)] * (OTHERS * (kind == "beta"))], dim=1)
    values = torch.stack([term({"": ChoiceLogits(("",) * logits.shape[1], row)}, **options) for row in logits])
    return values.detach(), torch.autograd.grad(values.sum(), points)[0]


def shapes(output: Path | None) -> Report:
    """Draw figure 9: every term and its derivative over one logit; write ``shapes.png``, ``.csv``."""
    points = torch.linspace(-3, 3, 121, dtype=torch.float64)
    curves, folder = {name: shape(name, points) for name in TERMS}, open_output(output, "shapes")
    figure, looks = new_figure(9.6, 3.6), line_styles(TERMS)
    for axes, place, title in zip(figure.subplots(1, 2), (0, 1), ("term", "its derivative"), strict=True):
        for name, look in looks.items():
            axes.plot(points, curves[name][place], **look, linewidth=1.6)
        axes.set_ylim(*((-3.2, 5) if place == 0 else (-2.2, 3)))
        style(axes, title, "a logit of alpha")
    add_legend(figure, looks)
    save(figure, folder / "shapes.png")
    rows = [
        {"alpha": float(point)} | {name: float(values[number]) for name, (values, _) in curves.items()}
        for number, point in enumerate(points)
    ]
    write_csv(folder / "shapes.csv", rows)
    at = {-2: 20, 0: 60, 2: 100}
    printed = [
        {"term": name} | {f"derivative at {value}": f"{slopes[place] + 0:.3f}" for value, place in at.items()}
        for name, (_, slopes) in curves.items()
    ]
    return Report(folder, printed)


def lightest(covariance: Tensor) -> Tensor:
    """Return the beta of sum 1 that minimises ``Var(sum_i beta_i d_i)`` for errors d of this covariance, ``[n, n]``."""
    solution = torch.linalg.solve(covariance, covariance.new_ones(len(covariance)))
    return solution / solution.sum()


def channel_gradients(seed: int, candidates: int = 3, inputs: int = 10) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by equation what partial channels add to the expected gradient, by all masks and as printed (SA-DARTS, 6.11).

    A linear unit of ``candidates`` with ``inputs`` channels, each kept with a probability p_n of its own, and a random target.
    The expectation runs over all ``2^inputs`` masks s; the ensemble has p in place of s.
    """
    generator = torch.Generator().manual_seed(seed)
    alpha, x, target, keep = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in (candidates, inputs, (), inputs)
    )
    w = torch.randn(candidates, inputs, generator=generator, dtype=torch.float64).requires_grad_()
    keep, beta = keep.sigmoid(), alpha.requires_grad_().softmax(0)
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * inputs)
    chances = torch.where(masks.bool(), keep, 1 - keep).prod(1)
    ensemble = (target - (beta @ w * keep * x).sum()).square() / 2
    expected = chances @ (target - masks @ (beta @ w * x)).square() / 2
    more = torch.autograd.grad(expected - ensemble, (w, beta, alpha))
    spread = (beta @ w * keep * (1 - keep) * x**2).detach()
    of_beta = w.detach() @ spread
    of_alpha = beta.detach() * (of_beta - beta.detach() @ of_beta)
    return {
        "23, 24: by w": (more[0], torch.outer(beta.detach(), spread)),
        "25: by beta, not alpha": (more[1], of_beta),
        "25: by alpha, as printed": (more[2], of_beta),
        "25: by alpha, with the derivative of softmax": (more[2], of_alpha),
    }


def equations(seed: int, output: Path | None) -> Report:
    """Check what can be computed of eq. 3 to 6 and 21 to 25; print which hold; write ``equations.json``.

    Of eq. 3 to 5: the beta that minimises the variance of a mixture of uncorrelated errors, beside the sum of the other
    variances that is printed. Of eq. 6: whether it is the sum of eq. 15 to 17, whose covariances and C it shares.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: a whole number from 0 to 2^63 - 1.")
    v = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    total = v.sum()
    checks: dict[str, tuple[Tensor, Tensor]] = {
        "3 to 5: two operations, the other variance": (lightest(v[:2].diag()), v[:2].flip(0) / v[:2].sum()),
        "3 to 5: three, the sum of the other two": (lightest(v.diag()), (total - v) / (2 * total)),
        "3 to 5: three, the product of the other two": (lightest(v.diag()), v.prod() / v / (v.prod() / v).sum()),
        "6: the sum of 15 to 17, without 2 Var(avg)": (2 * total, 2 * (total - v[2])),
        **channel_gradients(seed),
    }
    errors = {name: float((true - printed).abs().max() / true.abs().max()) for name, (true, printed) in checks.items()}
    folder = open_output(output, "equations")
    write_numbers(folder / "equations.json", {"seed": seed, "errors": errors})
    rows = [
        {"equation": name, "relative error": f"{error:.1e}", "holds": "yes" if error < EXACT else "no"}
        for name, error in errors.items()
    ]
    return Report(folder, rows, ["22 is printed as 21; the ensemble has p in place of s."])


def errors_of(folder: Path, overrides: Sequence[str], batches: int) -> dict[str, dict[str, Any]]:
    """Return by choice of operations ``candidates``, ``alpha`` and ``variance``: of ``o(x) - m(x)``, m being the mixture.

    m stands for the best output m* of eq. 3 to 5, as in eq. 6 and 15 to 17. Variances are over the elements of a batch of
    alpha's images, means over batches and the places that share a choice. BatchNorm normalises by the batch, as in alpha's steps.
    """
    searcher = load_searcher(folder, overrides, plain=True)
    weights = {label: weight.detach() for label, weight in searcher.alpha.relax(searcher.relaxation).items()}
    labels = {id(weight): label for label, weight in weights.items()}
    sums: dict[str, list[list[float]]] = defaultdict(list)

    def measure(op: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x, weight = (*args, *kwargs.values())
        if isinstance(op, MixedOp) and id(weight) in labels:
            sampled = x if op.partial_channel == 1 else x[:, : op.sampled]
            outputs = [candidate(sampled) for candidate in op.candidates.values()]
            mixture: Any = sum(share * output for share, output in zip(weight, outputs, strict=True))
            sums[labels[id(weight)]].append([float((output - mixture).var()) for output in outputs])

    for op in searcher.space.modules():
        if isinstance(op, MixedOp):
            op.register_forward_pre_hook(measure, with_kwargs=True)
    with torch.no_grad():
        for _ in range(batches):
            searcher.space.train()(searcher.next_batch(searcher.validation)[0], weights)
    if not sums:
        raise UserError(f"{folder}: no operation of {searcher.space.arch} is mixed by the weights of one choice.")
    return {
        label: {
            "candidates": choice.candidates,
            "alpha": searcher.alpha.logits[label].tolist(),
            "variance": np.mean(sums[label], axis=0).tolist(),
        }
        for label, choice in searcher.space.choices().items()
        if label in sums
    }


def against_alpha(choices: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return how eq. 3 to 5 and 15 to 17 agree with a search, given what :func:`errors_of` returns.

    ``spearman`` is the mean over the choices of the rank correlation of alpha and the sum of the other variances: 1 by eq. 3 to
    5. ``slope`` is that of exp(alpha) over the variance within the choices: -1 by the differences of eq. 15 to 17.
    """
    ranks, products, squares = [], 0.0, 0.0
    for choice in choices.values():
        alpha, variance = np.array(choice["alpha"]), np.array(choice["variance"])
        if np.ptp(alpha) and np.ptp(variance):  # else there is no order
            ranks.append(float(spearmanr(alpha, variance.sum() - variance).statistic))
        centred = variance - variance.mean()
        products, squares = products + float(centred @ np.exp(alpha)), squares + float(centred @ centred)
    return {"spearman": float(np.mean(ranks or np.nan)), "slope": products / squares if squares else np.nan}


def variances(runs: Sequence[Path], overrides: Sequence[str], batches: int, output: Path | None) -> Report:
    """Measure eq. 3 to 5 and 15 to 17 on the supernets of searches; write ``variances.json``, ``.csv`` and ``.png``."""
    if batches < 1:
        raise UserError("--batches is at least 1.")
    for run in runs:
        read_run(run)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in runs:
        name = run.resolve().name
        found[str(run) if name in found else name] = errors_of(run, overrides, batches)
    rows = [
        {"search": name, "choice": label, "candidate": candidate, "alpha": alpha, "variance": variance}
        for name, choices in found.items()
        for label, choice in choices.items()
        for candidate, alpha, variance in zip(choice["candidates"], choice["alpha"], choice["variance"], strict=True)
    ]
    summary = {name: against_alpha(choices) for name, choices in found.items()}
    folder = open_output(output, "variances")
    write_csv(folder / "variances.csv", rows)
    write_numbers(folder / "variances.json", {name: {"choices": found[name]} | summary[name] for name in found})
    figure = new_figure(4.4 * len(found) + 2.4, 3.6)
    candidates = dict.fromkeys(row["candidate"] for row in rows)
    looks = {name: look | {"marker": "o", "linestyle": ""} for name, look in line_styles(candidates).items()}
    printed = []
    for axes, name in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for candidate, look in looks.items():
            own = [row for row in rows if (row["search"], row["candidate"]) == (name, candidate)]
            if own:
                alpha, variance = ([row[key] for row in own] for key in ("alpha", "variance"))
                axes.plot(variance, alpha, **look, markersize=5)
                means = {"Var(o(x) - m)": f"{np.mean(variance):.4g}", "alpha": f"{np.mean(alpha):.4f}"}
                printed.append({"search": name, "candidate": candidate} | means)
        axes.set_xscale("log")
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        style(axes, name, "variance of o(x) - m(x)", "alpha")
    add_legend(figure, looks)
    save(figure, folder / "variances.png")
    notes = [
        f"{name}: Spearman of alpha and the sum of the other variances {numbers['spearman']:+.2f} (1 by eq. 3 to 5); "
        f"slope of exp(alpha) over the variance {numbers['slope']:+.3g} (-1 by eq. 15 to 17)."
        for name, numbers in summary.items()
    ]
    return Report(folder, printed, notes)
