"""Which network of a training is kept as the best one, by scores that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sr_nas
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.jobs.run import Run
from sr_nas.jobs.train import Checkpointer
from sr_nas.options.load import load_options
from sr_nas.options.sections import TrainOptions
from sr_nas.runs.run_dir import read_history
from sr_nas.task import Scores, Validator
from sr_nas.trainer import Diverged
from tests.jobs.processes import TINY_TRAINING
from tests.test_trainer import trainer


class Given(Validator):
    """Scores of a list, one after another."""

    metrics, heading, unit = ("psnr",), "PSNR", " dB"

    def __init__(self, scores: list[float]) -> None:
        self.sets, self.scores = {"set": None}, iter(scores)

    def measure(self, network: Any) -> dict[str, Any]:
        score = next(self.scores)
        if score != score:
            raise NonFiniteOutput("NaN")
        return {"set": {"psnr": score}}

    def format(self, scores: Scores) -> str:
        return str(scores)

    def card(self) -> dict[str, Any]:
        return {}


def checkpointer(root: Path, scores: list[float]) -> Checkpointer:
    options = load_options(TrainOptions, TINY_TRAINING, [f"path:experiments_root={root}"])
    run = Run.create_or_resume(options, False).open(torch.device("cpu"), {})
    return Checkpointer(run, trainer(total=8), Given(scores))


def test_an_equal_score_later_does_not_replace_the_best(tmp_path: Path) -> None:
    writer = checkpointer(tmp_path, [30.0, 30.0, 31.0, 30.5])
    best = []
    for losses in writer.trainer.steps():
        writer.note(losses)
        if writer.trainer.iteration % 2 == 0:
            best.append(writer.validate()[1])
            if writer.trainer.iteration == 4:
                kept = sr_nas.load_network(writer.run.folder / "best.safetensors").state_dict()
                assert any(not torch.equal(kept[key], value) for key, value in writer.trainer.averaged.state_dict().items())
    writer.run.__exit__(None, None, None)
    assert best == [True, False, True, False] and (writer.best, writer.best_iteration) == (31.0, 6)
    assert [record["iteration"] for record in read_history(writer.run.folder)] == [2, 4, 6, 8]


def test_an_output_that_is_not_finite_is_a_divergence(tmp_path: Path) -> None:
    writer = checkpointer(tmp_path, [float("nan")])
    with pytest.raises(Diverged, match="the output for a validation image is not finite"):
        writer.validate()
    writer.run.__exit__(None, None, None)
    assert not (writer.run.folder / "best.safetensors").exists()
