"""A signal stops a run after its step, a second one at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from sr_nas.cli import with_errors_printed
from sr_nas.runs.distributed import GracefulShutdown

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "ignored at the start"])
def started_with(request: pytest.FixtureRequest) -> Iterator[Any]:
    """How a shell may have started the process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, request.param) for number in numbers]
    yield request.param
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_asks_and_the_second_ends(started_with: Any) -> None:
    for first in (signal.SIGINT, signal.SIGTERM):
        with GracefulShutdown() as stop:
            assert not stop()
            send(first)
            assert stop()
            assert stop.exit_code == 128 + first
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "a third one would end the process"
        assert signal.getsignal(signal.SIGINT) is started_with


def test_a_signal_of_another_process_is_not_this_ones_first(started_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_nas.runs.distributed.largest", lambda number: signal.SIGTERM)
    with GracefulShutdown() as stop:
        assert stop.agreed()
        send(signal.SIGTERM)
        assert stop.exit_code == 128 + signal.SIGTERM


def test_a_closed_terminal_asks_too_unless_it_is_ignored(started_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = []
    monkeypatch.setattr("os.dup2", lambda new, old: replaced.append(old))
    monkeypatch.setattr("stat.S_ISCHR", lambda mode: True)
    with GracefulShutdown() as stop:
        if started_with is not signal.SIG_IGN:
            send(signal.SIGHUP)
            assert (stop.exit_code, replaced) == (129, [1, 2])
        else:
            send(signal.SIGHUP)
            assert not stop() and not replaced


def test_ctrl_c_ends_a_command_with_a_word(started_with: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt("The last checkpoint is x.")

    assert with_errors_printed("train", stopped) == 130
    assert capsys.readouterr().err == "train: stopped. The last checkpoint is x.\n"
