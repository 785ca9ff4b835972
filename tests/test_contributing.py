"""The walks of CONTRIBUTING.md, run from its own code blocks: plug-ins, option files, commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sr_nas.cli import main
from sr_nas.complexity.costs import cost_table
from sr_nas.contracts import reparameterized
from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import REGULARIZERS, SPACES
from sr_nas.search.objective import ChoiceLogits
from sr_nas.task import build_searcher
from tests.conftest import REPOSITORY

SECTIONS = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")
PLACE = re.compile(r"# (mine/\S+)\n")


@pytest.fixture(autouse=True)
def _workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with the option files of the repository, as the user's own."""
    shutil.copytree(REPOSITORY / "options", tmp_path / "options")
    monkeypatch.chdir(tmp_path)


def follow(section: str, forget: Callable[[], None]) -> str:
    """Do what a section says, each command as a process of its own would; return the text that it says to expect."""
    expected = ""
    (text,) = (text for text in SECTIONS if text.startswith(section))
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M):
        if language == "text":
            expected += block
        elif language == "sh":
            for line in block.splitlines():
                program, *words = shlex.split(line)
                forget()
                assert program == "sr-nas" and main(words) == 0, line
        else:
            place = PLACE.match(block)
            assert place, f"no file is named in the first line of {block}"
            Path(place[1]).parent.mkdir(exist_ok=True)
            Path(place[1]).write_text(block, encoding="utf-8")
    return expected


def one_hot(space: Any) -> dict[str, torch.Tensor]:
    """The first candidate of every choice."""
    return {label: torch.eye(len(choice.candidates))[0] for label, choice in space.choices().items()}


@pytest.mark.long
def test_a_candidate_that_merges_its_branches(forget_plugins: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    expected = follow("A candidate", forget_plugins)
    assert expected and expected in capsys.readouterr().out
    settings = ["--scale", "2", "--nf", "16", "--num_blocks", "1"]
    assert main(["complexity", "--arch", "imdn", "--genotype", ",".join(["conv_3x3"] * 4), *settings]) == 0
    assert expected in capsys.readouterr().out
    space: Any = SPACES.build(load_options(SearchOptions, "mine/rep_imdn.yml").network_g)(scale=2)
    network, x = space.derive(space.decode(one_hot(space))).eval(), torch.rand(1, 3, 16, 16)
    assert network.genotype.names == ["rep_3x3"] * 4
    merged = reparameterized(network)
    torch.testing.assert_close(merged(x), network(x))
    assert [type(conv).__name__ for conv in merged.blocks[0].convs] == ["Conv2d"] * 4
    rep, conv, separable = cost_table(space, "flops")["conv1"].tolist()
    assert rep == conv > separable > 0


@pytest.mark.long
def test_a_penalty_on_one_operation(forget_plugins: Callable[[], None]) -> None:
    follow("A penalty", forget_plugins)
    lines = Path("experiments/few_5x5/history.jsonl").read_text(encoding="utf-8").splitlines()
    first = next(record for line in lines if (record := json.loads(line))["epoch"] == 1)
    assert first["loss"]["regularizer"] == pytest.approx(24 / 12, rel=0.03)
    names = ("none", "skip_connect", "conv", "pool")
    even = {label: ChoiceLogits(names[:count], torch.zeros(count)) for label, count in (("one", 4), ("two", 2), ("three", 1))}
    assert REGULARIZERS.get("share")(even, name="skip_connect").item() == pytest.approx((1 / 4 + 1 / 2) / 2)
    with pytest.raises(UserError, match="no choice has the candidate 'conv_9x9'"):
        REGULARIZERS.get("share")(even, name="conv_9x9")


@pytest.mark.long
def test_a_search_space(forget_plugins: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    follow("A search space", forget_plugins)
    assert "Residual(" in capsys.readouterr().out
    space = build_searcher(load_options(SearchOptions, "mine/residual.yml"), torch.device("cpu")).space.eval()
    network = space.derive(space.decode(one_hot(space))).eval()
    network.load_state_dict(space.inherited(network.genotype))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(space(x, one_hot(space)), network(x), rtol=0, atol=1e-5)
    forget_plugins()
    assert main(["complexity", "--model", "residual.safetensors"]) == 1
    message = capsys.readouterr().err
    assert "unknown network 'Residual'" in message and "--plugin residual.py" in message
    assert main(["complexity", "--model", "experiments/train_residual"]) == 0  # whose folder has its own copy
    (copy,) = Path("experiments/train_residual").glob("*.py")
    assert copy.read_bytes() == Path("mine/residual.py").read_bytes()
