"""Whole searches that a criterion ends before their last epoch: what they say and leave, and a resume of one that is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.jobs.trials import Trial
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.runs.run_dir import read_history
from tests.jobs.processes import TINY_SEARCH
from tests.jobs.test_search_runs import assert_equal, everything, search

STOPPING = ("search:epochs=9", "search:stop={type: darts_plus, patience: 1}")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("stopped")
    return root / "tiny", search(root, *STOPPING)


@pytest.mark.slow
def test_a_search_that_is_stopped_is_finished(stopped: tuple[Path, str]) -> None:
    folder, printed = stopped
    *others, last = read_history(folder)
    text = f"stopped after epoch {last['epoch']}: the ranking of alpha is that of 1 epochs before"
    assert 2 <= last["epoch"] < 9 and f"ended     {text}" in printed and text in (folder / "log.txt").read_text()
    assert not any("stopped" in record for record in others)
    words = [f"path:experiments_root={folder.parent}", "num_gpu=0", *STOPPING]
    trial = Trial(load_options(SearchOptions, TINY_SEARCH, words))  # as a sweep sees it
    assert [record["epoch"] for _, record in filter(None, map(trial.record, (1, 9)))] == [1, last["epoch"]]
    written = json.loads((folder / "genotype.json").read_text())
    assert {key: written[key] for key in ("arch", "genotype")} == last["genotype"]
    assert (folder / "inherited.safetensors").is_file() and (folder / "plots" / "beta.png").is_file()
    before = everything(folder)
    again = search(folder.parent, *STOPPING, resume=True)
    assert f"ended     {text}" in again and f"step {last['step']} of {last['step']}" in again
    assert_equal(before, everything(folder))


def test_several_searches_in_one_are_not_stopped() -> None:
    with pytest.raises(UserError, match="stop ends a single search, and restarts 3 are several"):
        load_options(SearchOptions, TINY_SEARCH, ["search:restarts=3", "search:stop=darts_plus"])
