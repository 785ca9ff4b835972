"""Plug-ins: files of the user's that register entries; what errors in them say, and what becomes of them in runs and sweeps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sr_nas.cli import main
from sr_nas.errors import UserError
from sr_nas.export.network_file import build_network, describe_network
from sr_nas.jobs.run import Run, dump_with_plugins
from sr_nas.jobs.trials import Trial
from sr_nas.networks.imdn import IMDN
from sr_nas.options.load import dump_options, load_options, read_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import REGULARIZERS, load_plugin
from sr_nas.runs.run_dir import CHECKPOINT, save_checkpoint

Forget = Callable[[], None]
PLUGIN = """from sr_nas.registry import REGULARIZERS


@REGULARIZERS.register()
def mine(alpha, *, nu: float = 2.0):
    return nu * sum(choice.logits.sum() for choice in alpha.values())
"""
FILE = """name: few
scale: 2
plugin: mine.py
datasets: {train: {type: sample, gt_size: 32}}
network_g: {type: IMDN}
search: {epochs: 1, regularizer: {type: mine}}
"""


@pytest.fixture(autouse=True)
def place(forget_plugins: Forget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An option file and its plug-in in a folder, which is not the working directory."""
    (folder := tmp_path / "own").mkdir()
    (folder / "mine.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "few.yml").write_text(FILE, encoding="utf-8")
    (folder / "heir.yml").write_text("_base_: few.yml\nname: heir\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


def test_paths_are_those_of_the_file_that_names_it(place: Path, forget_plugins: Forget) -> None:
    (place / "below").mkdir()
    (place / "below" / "heir.yml").write_text("_base_: ../few.yml\n", encoding="utf-8")
    file = place / "mine.py"
    assert load_options(SearchOptions, place / "below" / "heir.yml").plugin == [str(file)]
    assert load_options(SearchOptions, place / "few.yml", ["plugin=own/mine.py"]).plugin == [str(file)]
    options = load_options(SearchOptions, "own/few.yml")
    assert options.plugin == [str(file)] and options.search.regularizer.type == "mine"
    assert options.search.regularizer.arguments() == {"nu": 2.0}
    forget_plugins()
    (place / "copy.yml").write_text(dump_options(options), encoding="utf-8")
    assert load_options(SearchOptions, place / "copy.yml").model_dump() == options.model_dump()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("float", "Nothing"), r"own/mine\.py, line 5: NameError: name 'Nothing' is not defined"),
        (("def mine", "def mine("), r"own/mine\.py, line 5: (invalid syntax|'\(' was never closed)"),
        (("def mine", "def l2"), r"line 4: ValueError: the regularizer 'l2' is there already, in .*objective\.py: give this one"),
        (("nu: float", "nu"), r"few\.yml: 1 problem\n  search\.regularizer: .*mine\.py, line 4: .*'nu' has no annotation"),
        (("nu: float", "nu: 'Nothing'"), r"search\.regularizer: .*mine\.py, line 4: .*name 'Nothing' is not defined"),
        (("def mine", "def mien"), r"unknown regularizer 'mine' - did you mean 'mien'\? Allowed: none, .*, mien\."),
        (("@REG", "raise SystemExit(0)\n@REG"), r"own/mine\.py, line 4: SystemExit: 0"),
        (("nu: float", "\0"), r"own/mine\.py.*: source code (string )?cannot contain null bytes"),
        (("REGULARIZERS", "COSTS"), r"mine\.py: the cost mine would be new keys of option files"),
    ],
)  # fmt: skip
def test_errors_are_one_message_with_file_and_line(place: Path, change: tuple[str, str], message: str) -> None:
    (place / "mine.py").write_text(PLUGIN.replace(*change), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_options(SearchOptions, place / "few.yml")
    assert re.search(message, str(caught.value)) and len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("value", "message"), [("gone.py", "does not exist"), ("own/few.yml", "ends in .py"), ("3", "a list is")]
)
def test_what_is_no_plugin_is_refused(place: Path, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_options(SearchOptions, place / "few.yml", [f"plugin={value}"])


def test_an_error_while_a_command_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PLUGIN.replace("return nu", "return nu.nothing") + "\n\nmine({})\n"
    (place / "mine.py").write_text(text, encoding="utf-8")
    assert main(["complexity", "--arch", "imdn", "--plugin", "own/mine.py"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("complexity: ") and error.count("\n") == 1
    assert "own/mine.py, line 6: AttributeError: 'float' object has no attribute 'nothing'" in error.replace("\n", " ")


def test_one_content_runs_once_and_another_version_clashes(place: Path) -> None:
    (place / "copy.py").write_bytes((place / "mine.py").read_bytes())
    for name in ("mine.py", "copy.py", "mine.py"):
        load_plugin(place / name)
    assert REGULARIZERS.names()[-1] == "mine"
    (place / "copy2.py").write_text(PLUGIN + "# changed\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"copy2\.py, line 4: .*'mine' is there already, in .*own/mine\.py"):
        load_plugin(place / "copy2.py")


def test_a_run_keeps_a_copy_and_resumes_with_no_other_version(place: Path, forget_plugins: Forget) -> None:
    options = load_options(SearchOptions, place / "heir.yml")
    with Run.create_or_resume(options, False) as run:
        run.open(torch.device("cpu"), {})
        save_checkpoint(run.folder / CHECKPOINT, {})
    assert (run.folder / "mine.py").read_text(encoding="utf-8") == PLUGIN
    (start,) = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    assert start["plugins"] == {"mine.py": f"sha256 {hashlib.sha256(PLUGIN.encode()).hexdigest()}"}
    (place / "mine.py").write_text(PLUGIN + "# changed\n", encoding="utf-8")
    assert Run.create_or_resume(options, True).resumed == run.folder  # as it was when this process began
    forget_plugins()
    copied = load_options(SearchOptions, run.folder / "options.yml")
    assert copied.plugin == [str(run.folder.absolute() / "mine.py")]
    assert Run.create_or_resume(copied, True).resumed == run.folder
    forget_plugins()
    with pytest.raises(UserError, match=r"other options, .*\n  plugin\.mine\.py: sha256 \w+ -> sha256 \w+\n"):
        Run.create_or_resume(load_options(SearchOptions, place / "heir.yml"), True)


def test_the_genotype_of_a_search_brings_its_plugins(place: Path) -> None:
    (run := place / "run").mkdir()
    (run / "mine.py").write_text(PLUGIN, encoding="utf-8")
    (run / "network_g.yml").write_text("network_g: {type: IMDN, nf: 16}\nplugin: [mine.py]\n", encoding="utf-8")
    (place / "train.yml").write_text(f"network_g: {{type: IMDN, genotype: {run}}}\n", encoding="utf-8")
    assert read_options(place / "train.yml")["plugin"] == [str(run / "mine.py")] and "mine" in REGULARIZERS.names()
    assert read_options(place / "train.yml", ["plugin=own/mine.py"])["plugin"] == [str(place / "mine.py")]


def test_the_trials_of_a_sweep_have_one_version(place: Path, forget_plugins: Forget) -> None:
    trial = Trial(load_options(SearchOptions, place / "few.yml"))
    trial.file.parent.mkdir(parents=True)
    for _ in range(2):
        trial.file.write_text(dump_with_plugins(trial.options, trial.file.parent), encoding="utf-8")
    assert "plugin:\n- mine.py\n" in trial.file.read_text(encoding="utf-8")
    forget_plugins()
    (place / "mine.py").write_text(PLUGIN + "# changed\n", encoding="utf-8")
    copied = load_options(SearchOptions, trial.file)
    assert copied.plugin == [str(trial.file.parent.absolute() / "mine.py")]
    forget_plugins()
    with pytest.raises(UserError, match="another version"):
        dump_with_plugins(load_options(SearchOptions, place / "few.yml"), trial.file.parent)


def test_the_file_of_a_network_names_plugins_and_loads_none(place: Path, forget_plugins: Forget) -> None:
    assert "plugins" not in describe_network(IMDN(2, nf=16, num_blocks=1))
    load_plugin(place / "mine.py")
    metadata = describe_network(IMDN(2, nf=16, num_blocks=1))
    assert metadata["plugins"] == "mine.py"
    forget_plugins()
    build_network(metadata, 10**6)
    with pytest.raises(UserError, match=r"unknown network 'Mine'.*with the plug-in mine\.py, .* name it with --plugin mine\.py"):
        build_network(metadata | {"architecture": "Mine"}, 10**6)
    load_plugin(place / "mine.py")
    with pytest.raises(UserError, match=r"unknown network 'Mine' .* Allowed: \w+(, \w+)*\.$"):
        build_network(metadata | {"architecture": "Mine"}, 10**6)
