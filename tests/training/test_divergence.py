"""When a loss counts as diverged, by numbers."""

from __future__ import annotations

import pytest

from sr_nas.trainer import DivergenceWatch


def watched(losses: list[float], factor: float | None = 10.0, window: int = 20) -> DivergenceWatch:
    watch = DivergenceWatch(factor, window)
    for loss in losses:
        watch.note(loss)
    return watch


def test_the_mean_of_the_window_is_compared_with_the_lowest_such_mean() -> None:
    fallen = [1.0] * 20 + [0.1] * 20
    assert watched(fallen).lowest == pytest.approx(0.1)
    # k losses of 2 among 20, the others 0.1: the mean is 0.1 + 1.9 k / 20, above 1 from k = 10 on.
    assert not watched(fallen + [2.0] * 9).diverged
    assert watched(fallen + [2.0] * 10).diverged
    assert "is 1.05, and was 0.1 at its lowest" in watched(fallen + [2.0] * 10).describe()


def test_one_hard_batch_is_no_divergence_but_nothing_is_saved_upon_it() -> None:
    watch = watched([0.1] * 20 + [15.0])
    assert not watch.diverged
    assert watch.suspicious
    for _ in range(DivergenceWatch.RECENT):
        watch.note(0.1)
    assert not watch.suspicious


def test_nothing_is_judged_before_the_first_window_is_full_or_without_a_factor() -> None:
    assert not watched([0.1] * 18 + [1e9]).diverged
    assert not watched([0.1] * 20 + [1e9] * 20, factor=None).diverged
    assert not watched([0.0] * 20 + [1e-9] * 20).diverged


def test_a_resumed_watch_judges_as_the_old_one() -> None:
    old, new = watched([0.1] * 20 + [2.0] * 9), DivergenceWatch(10.0, 20)
    new.load_state_dict(old.state_dict())
    for watch in (old, new):
        watch.note(2.0)
    assert old.diverged and new.diverged
    assert old.state_dict() == new.state_dict()
