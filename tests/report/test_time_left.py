"""Estimates of the time left, with a clock that the tests turn."""

from __future__ import annotations

import math

import pytest

from sr_nas.report.progress import TimeLeft, duration, step_duration


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_steady_run() -> None:
    clock = Clock()
    left = TimeLeft(100, clock=clock)
    for step in range(1, 26):
        clock.now += 2.0
        left.advance(step)
    assert left.seconds_per_step == 2.0
    assert left.seconds == 75 * 2.0


def test_steps_before_a_resume_took_no_time() -> None:
    clock = Clock()
    left = TimeLeft(1000, start=900, clock=clock)
    clock.now += 5.0
    left.advance(910)
    assert left.seconds_per_step == 0.5
    assert left.seconds == 90 * 0.5


def test_only_the_latest_steps_count() -> None:
    """20 steps of 1 s of a warm-up, then 10 of 3 s: within a window of 10 steps a step takes 3 s."""
    clock = Clock()
    left = TimeLeft(100, clock=clock)
    for step in range(1, 31):
        clock.now += 1.0 if step <= 20 else 3.0
        left.advance(step, window=10)
        if step == 25:
            assert left.seconds_per_step == pytest.approx((5 * 1.0 + 5 * 3.0) / 10)
    assert left.seconds == 70 * 3.0


def test_the_first_step_is_not_foreseen() -> None:
    left = TimeLeft(10, clock=Clock())
    assert math.isnan(left.seconds)
    assert duration(left.seconds) == "unknown"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (5025, "1:23:45"), (2 * 86400 + 3 * 3600 + 4 * 60 + 5, "2 days, 3:04:05")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0432, "43.2 ms"), (1.5, "1.50 s"), (math.nan, "unknown")])
def test_step_durations_in_words(seconds: float, text: str) -> None:
    assert step_duration(seconds) == text
