"""The walks of CONTRIBUTING.md, run from its own code blocks: the code where the page puts it, the option file, the commands."""

from __future__ import annotations
import __future__

import importlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sr_nas.registry
from sr_nas.cli import main
from sr_nas.complexity.costs import cost_table
from sr_nas.contracts import reparameterized
from sr_nas.errors import UserError
from sr_nas.networks.imdn import IMDN_CANDIDATES
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import REGULARIZERS, SPACES, Registry
from sr_nas.search.objective import ChoiceLogits
from sr_nas.task import build_searcher
from tests.conftest import REPOSITORY

SECTIONS = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")
PLACE = re.compile(r"# (?:(append to|new file) )?(\S+)\n")


@pytest.fixture(autouse=True)
def _workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Registries and modules as they were before; the option files in the current folder, as beside the package."""
    for registry in (IMDN_CANDIDATES, *vars(sr_nas.registry).values()):
        if isinstance(registry, Registry):
            registry.names()
            monkeypatch.setattr(registry, "_entries", dict(registry._entries))
            monkeypatch.setattr(registry, "_filled", False)
    shutil.copytree(REPOSITORY / "options", tmp_path / "options")
    monkeypatch.chdir(tmp_path)


def follow(section: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Do what a section says; return the text that it says to expect."""
    expected = ""
    (text,) = (text for text in SECTIONS if text.startswith(section))
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M):
        if language == "text":
            expected += block
        elif language == "sh":
            for line in block.splitlines():
                program, *words = shlex.split(line)
                assert program == "sr-nas" and main(words) == 0, line
        else:
            place = PLACE.match(block)
            assert place, f"no file is named in the first line of {block}"
            how, name = place.groups()
            write(name, how, block, monkeypatch)
    return expected


def write(name: str, how: str | None, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file of a walk: an option file, a new module that its package finds, or code at the end of a module."""
    file = Path(name)
    if how == "append to":
        module = importlib.import_module(".".join(file.with_suffix("").parts))
        code = compile(block, name, "exec", __future__.annotations.compiler_flag, dont_inherit=True)
        exec(code, dict(vars(module)))
        return
    assert not (REPOSITORY / name).exists(), f"{name} is there already"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block, encoding="utf-8")
    if how == "new file":
        package = importlib.import_module(".".join(file.parent.parts))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(file.parent.resolve())])
        monkeypatch.setattr(package, file.stem, None, raising=False)  # removed again, as is the module itself:
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{file.stem}", None)
        del sys.modules[f"{package.__name__}.{file.stem}"]


def one_hot(space: Any) -> dict[str, torch.Tensor]:
    """The first candidate of every choice."""
    return {label: torch.eye(len(choice.candidates))[0] for label, choice in space.choices().items()}


def test_a_candidate_that_merges_its_branches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    expected = follow("A candidate", monkeypatch)
    assert expected and expected in capsys.readouterr().out
    settings = ["--scale", "2", "--nf", "16", "--num_blocks", "1"]
    assert main(["complexity", "--arch", "imdn", "--genotype", ",".join(["conv_3x3"] * 4), *settings]) == 0
    assert expected in capsys.readouterr().out
    space: Any = SPACES.build(load_options(SearchOptions, "options/rep_imdn.yml").network_g)(scale=2)
    network, x = space.derive(space.decode(one_hot(space))).eval(), torch.rand(1, 3, 16, 16)
    assert network.genotype.names == ["rep_3x3"] * 4
    merged = reparameterized(network)
    torch.testing.assert_close(merged(x), network(x))
    assert [type(conv).__name__ for conv in merged.blocks[0].convs] == ["Conv2d"] * 4
    rep, conv, separable = cost_table(space, "flops")["conv1"].tolist()
    assert rep == conv > separable > 0


def test_a_penalty_on_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    follow("A penalty", monkeypatch)
    lines = Path("experiments/few_5x5/history.jsonl").read_text(encoding="utf-8").splitlines()
    first = next(record for line in lines if (record := json.loads(line))["epoch"] == 1)
    assert first["loss"]["regularizer"] == pytest.approx(24 / 12, rel=0.03)
    names = ("none", "skip_connect", "conv", "pool")
    even = {label: ChoiceLogits(names[:count], torch.zeros(count)) for label, count in (("one", 4), ("two", 2), ("three", 1))}
    assert REGULARIZERS.get("share")(even, name="skip_connect").item() == pytest.approx((1 / 4 + 1 / 2) / 2)
    with pytest.raises(UserError, match="no choice has the candidate 'conv_9x9'"):
        REGULARIZERS.get("share")(even, name="conv_9x9")


def test_a_search_space(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    follow("A search space", monkeypatch)
    assert "Residual(" in capsys.readouterr().out
    space = build_searcher(load_options(SearchOptions, "options/residual.yml"), torch.device("cpu")).space.eval()
    network = space.derive(space.decode(one_hot(space))).eval()
    network.load_state_dict(space.inherited(network.genotype))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(space(x, one_hot(space)), network(x), rtol=0, atol=1e-5)
