"""A signal stops a run after its step, a second one at once."""

from __future__ import annotations

import os
import signal

import pytest

from sr_nas.runs.distributed import GracefulShutdown


def test_the_first_signal_asks_and_the_second_ends() -> None:
    with GracefulShutdown() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
