from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.runs.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from sr_nas.runs.device import pick_device
from sr_nas.runs.files import replacing, sweep, write_text
from sr_nas.runs.run_dir import append_history, cut_history, new_run, read_history, resumable_runs
from sr_nas.runs.shutdown import Interrupt


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_a_kill_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / ".checkpoint-unfinished-abc.pt").touch()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_sweeping_by_age_leaves_what_others_are_writing(tmp_path: Path) -> None:
    with replacing(tmp_path / "new.txt"), replacing(tmp_path / "old.txt") as old:
        os.utime(old, (time.time() - 100,) * 2)
        sweep(tmp_path, 50)
        assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == [".new"]
        old.touch()


def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    for name in ("画" * 83 + ".txt", "n" * 251 + ".txt"):
        write_text(tmp_path / name, "new")
        with replacing(tmp_path / name) as temporary:
            os.utime(temporary, (time.time() - 100,) * 2)
            sweep(tmp_path, 50)
            assert not temporary.exists()
            temporary.touch()
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_run_names(tmp_path: Path) -> None:
    assert resumable_runs(tmp_path, "a") == []
    assert [new_run(tmp_path, "a").name for _ in range(3)] == ["a", "a_2", "a_3"]
    assert resumable_runs(tmp_path, "a") == []
    (tmp_path / "a_b").mkdir()
    for name in ("a", "a_2", "a_b"):
        (tmp_path / name / "checkpoint.pt").touch()
    assert resumable_runs(tmp_path, "a") == [tmp_path / "a_2", tmp_path / "a"]


def test_history(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_history(tmp_path, {"step": step})
    with (tmp_path / "history.jsonl").open("a") as stream:
        stream.write('{"step": 4, "al')  # a kill in the middle of a line
    assert [record["step"] for record in read_history(tmp_path)] == [1, 2, 3]
    cut_history(tmp_path, 2)
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [{"step": 1}, {"step": 2}]
    with pytest.raises(UserError, match="is it the folder of a run"):
        read_history(tmp_path / "gone")


def test_checkpoints_bring_back_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "c.pt", {"step": 5})
    expected = torch.rand(3)
    assert load_checkpoint(tmp_path / "c.pt", torch.device("cpu")) == {"step": 5}
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not torch at all"])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.pt"):
        load_tensors(tmp_path / "c.pt")


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"params": {}}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="is no checkpoint of a run: it holds params"):
        load_checkpoint(tmp_path / "c.pt", torch.device("cpu"))


def test_the_first_signal_asks_and_the_second_ends() -> None:
    with Interrupt() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there() -> None:
    assert pick_device("auto") == pick_device(0) == torch.device("cpu")
    with pytest.raises(UserError, match="num_gpu: 1 was asked for"):
        pick_device(1)
