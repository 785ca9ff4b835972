"""Whole searches by several processes, as torchrun starts them."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.jobs import run as run_module
from sr_nas.jobs.run import Run
from sr_nas.options.load import decisive, dump_options, load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.runs.distributed import LOST
from sr_nas.runs.run_dir import read_history
from tests.jobs.processes import ENVIRONMENT, TINY_SEARCH, command, run

# Without BatchNorm, which sees the slices of a batch and not the batch.
OPTIONS = ("network_g:candidates=[conv_3x3,dsconv_3x3]", "search:epochs=8", "search:steps_per_epoch=4")


def words(root: Path, batch: int, name: str) -> list[str]:
    batches = f"datasets:train:batch_size_per_gpu={batch}"
    return ["-opt", str(TINY_SEARCH), "--force_yml", f"path:experiments_root={root}", batches, f"name={name}", *OPTIONS]


def kill_one_rank(launcher: subprocess.Popen[str], history: Path) -> str:
    """Kill one of torchrun's processes once the history has two lines; return what all of them printed."""
    children: list[str] = []
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and launcher.poll() is None:
        lines = history.read_text().count("\n") if history.is_file() else 0
        if lines and not children:
            listed = subprocess.run(["pgrep", "-P", str(launcher.pid), "-f", "search.py"], capture_output=True, text=True)
            children = listed.stdout.split()
        if lines >= 2:
            os.kill(int(children[-1]), signal.SIGKILL)
            break
        time.sleep(0.01)
    return launcher.communicate(timeout=300)[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_rank_that_dies_ends_the_job_and_one_process_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = [*torchrun, *command("search", *words(tmp_path, 1, "two"))[1:]]
    launcher = subprocess.Popen(two, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    printed = kill_one_rank(launcher, tmp_path / "two" / "history.jsonl")
    assert launcher.returncode == 1
    assert printed.count(f"search: {LOST}\n") == printed.count("searching in") == 1
    assert "batches of 2, 1 for each of 2 processes" in printed
    run("search", *words(tmp_path, 2, "one"))
    assert "batches of 2, 2 for each of 1 process, step" in run("search", *words(tmp_path, 1, "two"), "--auto_resume")
    assert [start["processes"] for start in json.loads((tmp_path / "two" / "run.json").read_text())] == [2, 1]
    one, other = (read_history(tmp_path / name) for name in ("one", "two"))
    assert [record["step"] for record in one] == [record["step"] for record in other]
    for expected, found in zip(one, other, strict=True):
        assert found["genotype"] == expected["genotype"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        for label, alpha in expected["alpha"].items():
            assert found["alpha"][label] == pytest.approx(alpha, abs=1e-5)


def begun(root: Path, starts: str) -> SearchOptions:
    """Make the folder of a run with these contents of run.json; return its options."""
    options = load_options(SearchOptions, TINY_SEARCH, [f"path:experiments_root={root}"])
    folder = root / options.name
    folder.mkdir(exist_ok=True)
    for name, text in (("options.yml", dump_options(options)), ("run.json", starts), ("checkpoint.pt", "")):
        (folder / name).write_text(text)
    return options


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "world_size", lambda: 4)
    with pytest.raises(UserError, match=r"batches of 6, which 4 processes cannot share.*: 1, 2, 3, 6"):
        Run.create_or_resume(begun(tmp_path, '[{"processes": 3, "threads": 1}]'), True)


def test_a_damaged_note_of_the_beginning_is_named(tmp_path: Path) -> None:
    damaged = (
        "[{",
        "[]",
        "{}",
        "3",
        '[{"seed": 0}]',
        '[{"processes": "2"}]',
        '[{"processes": 0, "threads": 1}]',
        '[{"processes": 1, "threads": 0}]',
        "[" * 5000,
        '{"a": 1, "a": 2}',
    )
    for content in damaged:
        with pytest.raises(UserError, match=r"run\.json.* this run cannot go on; start a new one without --auto_resume"):
            Run.create_or_resume(begun(tmp_path, content), True)


def test_damaged_options_of_the_beginning_are_named(tmp_path: Path) -> None:
    options = begun(tmp_path, '[{"processes": 1, "threads": 1}]')
    file = tmp_path / options.name / "options.yml"
    for content in (b"", b"a: [", b"- 1", b"\xff\xfe", b"a: !!int x", b"[" * 5000, b"a: 1\na: 2", b"\0"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"options\.yml[:,].* this run cannot go on; start a new one without --auto_resume"):
            Run.create_or_resume(options, True)
    for content in (f"name: {options.name}\nsearch: 3\ndatasets: [3]\ntrain: x", f"name: {options.name}\nsearch:\ndatasets:\n"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"was made with other options[\s\S]*datasets: "):
            Run.create_or_resume(options, True)
    file.unlink()
    with pytest.raises(UserError, match=r"has lost its options\.yml\. So this run cannot go on"):
        Run.create_or_resume(options, True)


def test_the_cache_of_a_data_set_may_change_and_its_patches_may_not(tmp_path: Path) -> None:
    options = begun(tmp_path, '[{"processes": 1, "threads": 1}]').model_dump(mode="json")
    free, other = copy.deepcopy(options), copy.deepcopy(options)
    free["datasets"]["train"] |= {"cache": False, "name": "x", "num_worker_per_gpu": 3}
    other["datasets"]["train"]["gt_size"] = 32
    assert decisive(options) == decisive(free) != decisive(other)
