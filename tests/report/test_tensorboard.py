"""What TensorBoard reads of a run, by its own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.report.tensorboard import Scalars, check_tensorboard


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Scalars(tmp_path)
    for iteration in range(1, 7):
        first.write(iteration, {"loss": iteration / 8, "psnr/Set5": 30.0 + iteration})
    first.close()
    second = Scalars(tmp_path, start=4)
    second.write(5, {"loss": 0.75})
    second.close()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 0.125),
        (2, 0.25),
        (3, 0.375),
        (4, 0.5),
        (5, 0.75),
    ]
    assert [event.value for event in events.Scalars("psnr/Set5")] == [31, 32, 33, 34]


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"logger\.use_tb_logger: .*pip install 'sr_nas\[tensorboard\]'"):
        check_tensorboard()


def test_no_folder_writes_nothing(tmp_path: Path) -> None:
    nowhere = Scalars(None)
    nowhere.write(1, {"loss": 1.0})
    nowhere.flush()
    nowhere.close()
    assert not list(tmp_path.iterdir())
