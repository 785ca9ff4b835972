"""Equations of the paper in numbers: terms by PyTorch's own, the lightest mixture by brute force, variances by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr_nas.analysis import equations
from sr_nas.analysis.equations import against_alpha, channel_gradients, errors_of, lightest, shape
from sr_nas.genotype import Choice
from sr_nas.ops.mixed import MixedOp
from sr_nas.search.alpha import Alpha, softmax
from tests.jobs.processes import run


def test_the_shapes_are_those_of_pytorchs_own_functions() -> None:
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)
    logits = torch.stack([points, *[torch.zeros_like(points)] * 4], dim=1)
    others = {
        "L2": points**2,
        "Beta-DARTS": logits.logsumexp(1),
        "SA, nu 1 (eq. 8)": points,
        "SA, nu 0.25, mu 1e6": torch.nn.functional.leaky_relu(points, 0.25),
        "SA, nu 0.25, mu 0": 0.625 * points,
        "SA, nu 0, mu 1/sqrt 2": torch.nn.functional.gelu(points),
    }
    for name, expected in others.items():
        torch.testing.assert_close(shape(name, points)[0], expected)
    torch.testing.assert_close(shape("Beta-DARTS", points)[1], logits.softmax(1)[:, 0])


def test_figure_9_is_drawn(tmp_path: Path) -> None:
    assert "SA, nu 0, mu 1/sqrt 2" in run("analyze", "shapes", "-o", tmp_path / "out")
    assert cv2.imread(str(tmp_path / "out" / "shapes.png")).std() > 0


def test_the_lightest_mixture_is_that_of_a_fine_grid() -> None:
    root = torch.tensor([[1.0, 0, 0], [0.3, 0.8, 0], [-0.2, 0.1, 1.2]], dtype=torch.float64)
    covariance = root @ root.T
    steps = torch.linspace(-0.2, 1.2, 281, dtype=torch.float64)
    pairs = torch.cartesian_prod(steps, steps)
    betas = torch.cat([pairs, 1 - pairs.sum(1, keepdim=True)], dim=1)
    best = betas[((betas @ covariance) * betas).sum(1).argmin()]
    assert lightest(covariance).tolist() == pytest.approx(best.tolist(), abs=0.005)


def test_equation_25_holds_for_beta_and_not_for_alpha(tmp_path: Path) -> None:
    printed = run("analyze", "equations", "--seed", "3", "-o", tmp_path / "out")
    errors = json.loads((tmp_path / "out" / "equations.json").read_text())["errors"]
    wrong = {name for name, error in errors.items() if error > 0.01}
    assert wrong == {
        "3 to 5: three, the sum of the other two",
        "6: the sum of 15 to 17, without 2 Var(avg)",
        "25: by alpha, as printed",
    }
    assert all(error < 1e-12 for name, error in errors.items() if name not in wrong) and printed.count("  no") == 3
    of_alpha, as_printed = channel_gradients(0)["25: by alpha, as printed"]
    assert abs(float(of_alpha.sum())) < 1e-12 < abs(float(as_printed.sum())), "softmax does not see a common shift"


def test_the_expectation_is_that_of_drawn_masks() -> None:
    """Eq. 24 for two candidates and two channels, by a mean over four masks that is written out."""
    generator = torch.Generator().manual_seed(5)
    alpha, x, target, keep = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (2, 2, (), 2))
    w, beta, keep = torch.randn(2, 2, generator=generator, dtype=torch.float64), alpha.softmax(0), keep.sigmoid()
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for s in ((0, 0), (0, 1), (1, 0), (1, 1)):
        mask = torch.tensor(s, dtype=torch.float64)
        chance = math.prod(float(p) if kept else 1 - float(p) for p, kept in zip(keep, s, strict=True))
        expected -= chance * float(target - (beta @ w * mask * x).sum()) * torch.outer(beta, mask * x)
    ensemble = -float(target - (beta @ w * keep * x).sum()) * torch.outer(beta, keep * x)
    more, _ = channel_gradients(5, candidates=2, inputs=2)["23, 24: by w"]
    torch.testing.assert_close(more, expected - ensemble)


class OneOp(nn.Module):
    """x, 2x and 0 mixed on half of the channels."""

    arch = "One"

    def __init__(self) -> None:
        super().__init__()
        scaled = {name: (lambda c, _, factor=factor: Scaled(factor)) for name, factor in (("x", 1), ("xx", 2), ("zero", 0))}
        self.op = MixedOp(scaled, 4, 4, 2)

    def choices(self) -> dict[str, Choice]:
        return {"op": Choice(("x", "xx", "zero"))}

    def forward(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return self.op(x, weights["op"])


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_the_errors_of_candidates_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    space, x = OneOp(), torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    alpha = Alpha(space.choices(), "constant", 0.0, {"xx": math.log(2)})  # beta 1/4, 1/2, 1/4: the mixture is 1.25 x
    searcher: Any = SimpleNamespace(space=space, alpha=alpha, relaxation=softmax, validation=None, next_batch=lambda _: (x, None))
    monkeypatch.setattr(equations, "load_searcher", lambda *_, **__: searcher)
    (choice,) = errors_of(tmp_path, [], 2).values()
    unit = float(x[:, :2].var())
    assert choice["variance"] == pytest.approx([0.0625 * unit, 0.5625 * unit, 1.5625 * unit], rel=1e-5)
    assert choice["alpha"] == pytest.approx([0, math.log(2), 0])


def test_what_equations_3_to_5_and_15_to_17_say_is_recognised() -> None:
    variance = np.array([0.1, 0.4, 0.2, 0.9])
    by_the_paper = {"op": {"alpha": np.log(2 - variance).tolist(), "variance": variance.tolist()}}
    assert against_alpha(by_the_paper) == pytest.approx({"spearman": 1, "slope": -1})
    assert against_alpha({"op": {"alpha": variance.tolist(), "variance": variance.tolist()}})["spearman"] == pytest.approx(-1)
    assert all(map(math.isnan, against_alpha({"op": {"alpha": [0.0], "variance": [1.0]}}).values())), "one has no order"


def test_a_seed_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "--seed -1: a whole number" in run("analyze", "equations", "--seed", "-1", "-o", tmp_path / "out", code=1)
    assert not (tmp_path / "out").exists()
