"""What a person reads while a search or a training runs, the text of history records, and TensorBoard scalars."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.report.progress import (
    RunView,
    SearchView,
    Sinks,
    TrainView,
    duration,
    genotype_text,
    macs,
    numbers,
    wanted_sinks,
)
from tests.jobs.processes import TINY_SEARCH, run

LOSSES = {"train": 0.03125, "task": 0.0298123, "regularizer": 0.0012, "cost": 2.1e-05, "total": 0.0310333}
LOSS_TEXT = "train 0.03125  task 0.0298123  regularizer 0.0012  cost 2.1e-05  total 0.0310333"


OPTIONS = load_options(SearchOptions, TINY_SEARCH, ["logger:use_tb_logger=true"])


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def terminal(monkeypatch: pytest.MonkeyPatch, term: str = "xterm-256color") -> Console:
    monkeypatch.setenv("TERM", term)
    return Console(file=io.StringIO(), force_terminal=True, width=80, height=24, legacy_windows=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_search_lines_within_and_after_an_epoch(make_history, imdn_choices) -> None:
    console, clock = plain(), Clock()
    record = make_history(imdn_choices, 3)[2]
    names = ["conv_3x3", "dsconv_5x5_bn", "conv_5x5", "dil_dsconv_3x3"]
    record["genotype"]["genotype"] = dict(zip(imdn_choices, names, strict=True))
    with SearchView(console, "run", 3000, start=60, print_freq=20, epochs=100, clock=clock) as view:
        for step in range(61, 91):
            clock.now += 0.5
            view.step(step, LOSSES)
        view.epoch(record)
    # 90 of 3000 steps are done, the 30 of this process took half a second each: 2910 * 0.5 s = 24 min 15 s.
    assert written(console).splitlines() == [
        f"epoch 3/100  step 20/30  {LOSS_TEXT}  time left 0:24:20",
        f"epoch 3/100  {LOSS_TEXT}  lambda 0.6  IMDN(conv_3x3, dsconv_5x5_bn, conv_5x5, dil_dsconv_3x3)  parameters 715,176  "
        "MACs, LR input 1280x720 654.5 G  MACs, HR output 1280x720 40.9 G  took 0:00:12  time left 0:24:15",
    ]


def test_training_lines_every_print_freq_iterations_and_at_the_last() -> None:
    console, clock = plain(), Clock()
    with TrainView(console, "run", 1025, start=1000, print_freq=10, clock=clock) as view:
        for iteration in range(1001, 1026):
            clock.now += 2.0
            view.step(iteration, {"loss": 0.0234375}, 2e-4)
        view.validation(1025, {"Set5": "32.210 dB / 0.8948", "Set14": "28.580 dB / 0.7811"}, best=True)
        view.validation(1025, {"Set5": "32.100 dB / 0.8900"}, best=False, start=0.82)
    assert written(console).splitlines() == [
        "iteration 1,010/1,025  loss 0.0234375  learning rate 0.0002  2 s an iteration  time left 0:00:30",
        "iteration 1,020/1,025  loss 0.0234375  learning rate 0.0002  2 s an iteration  time left 0:00:10",
        "iteration 1,025/1,025  loss 0.0234375  learning rate 0.0002  2 s an iteration  time left 0:00:00",
        "validation at 1,025  Set5 32.210 dB / 0.8948  Set14 28.580 dB / 0.7811  best so far",
        "validation at 1,025  Set5 32.100 dB / 0.8900  (moving average, 82% of it the start)",
    ]


def test_time_left_follows_the_latest_thousand_steps() -> None:
    clock = Clock()
    view = RunView(plain(), "run", 10_000, start=900, clock=clock)
    for step in range(901, 2902):
        clock.now += 1.0 if step <= 1901 else 60.0  # rich would forget steps of more than 30 s by default
        assert (view.time_left == "unknown") == (step <= 902)
        view.advance(step)
    assert view.seconds_per_step == 60.0
    assert view.time_left == duration(60 * (10_000 - 2901))


def test_messages_are_neither_wrapped_nor_read_as_markup() -> None:
    console = plain()
    text = "checkpoint [bold]written[/bold] to experiments/" + "a long folder name/" * 10
    with RunView(console, "run", 100) as view:
        view.message(text)
    assert written(console) == text + "\n"


def test_a_terminal_breaks_messages_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    console, words = terminal(monkeypatch), [f"word{number}" for number in range(40)]
    RunView(console, "run", 100).message(" ".join(words))
    lines = written(console).splitlines()
    assert " ".join(lines).split() == words and max(map(len, lines)) <= 80


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch)
    view = RunView(console, "the [run]", 300, start=100)
    view.advance(200)
    with pytest.raises(KeyboardInterrupt), view:
        raise KeyboardInterrupt
    assert all(text in written(console) for text in ("the [run]", "200/300"))
    assert "\x1b[?25h" in written(console)  # the cursor is shown again


def test_a_dumb_terminal_gets_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(monkeypatch, "dumb")
    with RunView(console, "run", 100) as view:
        view.message("a line")
    assert written(console) == "a line\n"


def test_genotypes_and_macs_of_records() -> None:
    assert genotype_text({"genotype": {"arch": "DLSR", "genotype": {"edge": "skip", "inputs": ["a", "b"]}}}) == "DLSR(skip, a+b)"
    record = {"macs_lr_1280x720": 654.53e9, "macs_hr_1280x720": 40.908e9, "macs_32x32": 117_800_000, "params": 715176}
    assert macs(record) == {
        "MACs, LR input 1280x720": "654.5 G",
        "MACs, HR output 1280x720": "40.9 G",
        "MACs, input 32x32": "117.8 M",
    }


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 5025, 183_845, None)] == ["0:00:00", "1:23:45", "2 days, 3:04:05", "unknown"]


def test_tensorboard_drops_what_lies_beyond_the_checkpoint_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = Sinks(tmp_path, OPTIONS)
    for iteration in range(1, 7):
        first.write(iteration, {"loss": iteration / 8, "psnr/Set5": 30.0 + iteration})
    first.close()
    second = Sinks(tmp_path, OPTIONS, start=4)
    second.write(5, {"loss": 0.75})
    second.close()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5), (5, 0.75)]
    assert [event.value for event in events.Scalars("psnr/Set5")] == [31, 32, 33, 34]


def test_without_tensorboard_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"logger\.use_tb_logger: .*pip install 'sr_nas\[tensorboard\]'"):
        wanted_sinks(OPTIONS.logger)


def test_numbers_of_a_record_have_names_with_slashes() -> None:
    record = {
        "epoch": 2,
        "loss": {"train": 0.5, "task": 1},
        "alpha": {"a": [1.0]},
        "budget": {"params": {"limit": 3.0}},
        "why": "x",
    }
    assert numbers(record) == {"epoch": 2, "loss/train": 0.5, "loss/task": 1, "budget/params/limit": 3.0}


def wandb_options(*more: str) -> SearchOptions:
    return load_options(SearchOptions, TINY_SEARCH, ["logger:wandb:project=small", *more])


def test_without_weights_and_biases_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_sinks(load_options(SearchOptions, TINY_SEARCH).logger) == []
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"logger\.wandb: .*pip install 'sr_nas\[wandb\]'"):
        wanted_sinks(wandb_options().logger)


def test_a_run_of_weights_and_biases_is_the_same_when_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text('[{"started": "2030-01-01"}]')
    calls: list[tuple[str, object]] = []

    class Module(SimpleNamespace):
        Error, Settings = RuntimeError, SimpleNamespace

        def init(self, **arguments: object) -> object:
            calls.append(("init", arguments))
            return SimpleNamespace(
                log=lambda values, step: calls.append(("log", (step, values))), finish=lambda: calls.append(("finish", None))
            )

    monkeypatch.setitem(sys.modules, "wandb", Module())
    for more in ((), (), ("logger:wandb:resume_id=mine",)):
        sinks = Sinks(tmp_path, wandb_options(*more), 3)
        sinks.write(4, {"loss/train": 0.5})
        sinks.flush()
        sinks.close()
    assert [name for name, _ in calls] == ["init", "log", "finish"] * 3
    assert calls[1] == ("log", (4, {"loss/train": 0.5}))
    begun = [arguments for name, arguments in calls if name == "init" and isinstance(arguments, dict)]
    assert begun[0]["id"] == begun[1]["id"] and begun[2]["id"] == "mine"
    assert begun[0]["project"] == "small" and begun[0]["dir"] == str(tmp_path) and begun[0]["config"]["name"] == "tiny"

    def refuse(**_: object) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"logger\.wandb: no API key. Log in with: wandb login"):
        Sinks(tmp_path, wandb_options())


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs pip install 'sr_nas[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path}", "logger:wandb:project=small")
    (file,) = (tmp_path / "tiny" / "wandb").glob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 60  # another process writes it
    while not all(name in file.read_bytes() for name in (b"loss/train", b"params", b"small")):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_scalars_without_a_folder_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scalars = Sinks(None, OPTIONS)
    scalars.write(1, {"loss": 1.0})
    scalars.flush()
    scalars.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_tensorboard_is_the_runs_error_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scalars = Sinks(tmp_path, OPTIONS)
    monkeypatch.setattr(RecordWriter, "write", full)

    def write() -> None:
        for step in range(200):
            scalars.write(step, {"loss": 1.0})
            scalars.flush()
            time.sleep(0.01)

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "tb") and "Traceback" not in capsys.readouterr().err
