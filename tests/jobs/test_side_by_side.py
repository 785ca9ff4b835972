"""How times are taken and summed up, with a clock of our own."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.jobs.side_by_side import Timing, added_memory, apart, in_turns, quartiles, summary

CPU = torch.device("cpu")


def test_steps_run_in_turns_every_other_round_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order, rounds = [0.0], [], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[0] / 2)

    def step(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds * (1 + len(order) // 3)  # slower every round

    steps = {name: lambda name=name, seconds=seconds: step(name, seconds) for name, seconds in {"a": 1, "b": 2, "c": 4}.items()}
    times = in_turns(steps, 3, CPU, after=lambda: rounds.append(len(order)))
    assert "".join(order) == "abcabccbaabc" and rounds == [6, 9, 12]
    assert {name: [one.seconds for one in own] for name, own in times.items()} == {
        "a": [2, 4, 4],
        "b": [4, 6, 8],
        "c": [12, 12, 20],
    }
    assert times["c"][2] == (20, 10)


def test_the_summary_is_of_ratios_within_rounds() -> None:
    base, own = [1.0, 10.0, 2.0, 5.0, 1.0], [3.0, 20.0, 8.0, 5.0, 2.0]
    found = summary([Timing(seconds, 3 * seconds) for seconds in own], [Timing(seconds, seconds) for seconds in base])
    assert found["seconds"] == 5 and found["ratio"] == 2 and found["cpu_ratio"] == 6 and found["cpu_seconds"] == 15
    assert found["spread"] == pytest.approx(np.percentile(own, [25, 75]))
    assert found["ratio_spread"] == pytest.approx(np.percentile(np.divide(own, base), [25, 75]))
    assert quartiles([7.0]) == [7.0, 7.0]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a process cannot be set back")
def test_added_memory_is_what_a_step_allocates_for_a_while() -> None:
    found = added_memory(lambda: np.ones(2**26, np.uint8), CPU)
    # The system counts resident pages in steps of its own.
    assert found is not None and 2**26 - 2**20 <= found < 2**26 + 2**24


def test_a_process_apart_answers_and_a_failure_has_its_words() -> None:
    assert apart("textwrap", "indent", text="a\nb", prefix="- ") == "- a\n- b"
    with pytest.raises(UserError, match=r"(?s)ended with 1: .*unexpected keyword argument 'wrong'"):
        apart("textwrap", "indent", wrong=1)
