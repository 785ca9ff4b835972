"""Run folders and their histories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.runs.run_dir import append_history, cut_history, new_run, read_history, resumable_runs


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
