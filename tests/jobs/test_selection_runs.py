"""Whole searches that select their network by its loss in the supernet: what they say and leave, and a kill while they select."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import NETWORKS
from sr_nas.runs.run_dir import read_history
from sr_nas.search.selection import Scores
from tests.jobs.processes import TINY_SEARCH
from tests.jobs.test_search_runs import assert_equal, everything, search

PATHS = (
    "search:cuda_graph=auto",
    "search:relaxation=uniform_path",
    "search:selection={type: evolution, population: 4, cycles: 6}",
)
PATHS = (*PATHS, "search:flops_weight=0", "search:budget:macs_hr=1.7G")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("finished")
    return root / "tiny", search(root, *PATHS)


@pytest.mark.long
def test_everything_that_a_search_leaves_is_of_the_selected_network(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    history = read_history(folder)
    last, numbers = history[-1], history[-1]["selection"]
    genotype = Genotype.from_json(last["genotype"])
    assert [("selection" in record) for record in history] == [False, False, False, True]
    assert last["genotype"] != history[-2]["genotype"], "another seed, please: this one selects the argmax"
    assert "steps are not recorded as CUDA graphs: the device is cpu, not cuda" in printed
    assert "alpha stays as it starts" in printed and "selecting the network: evolution" in printed
    assert set(last["loss"]) == {"train"} and last["alpha"] == history[0]["alpha"]
    assert 4 <= numbers["scored"] <= 10 and numbers["best"] < numbers["median"]
    text = f"best of {numbers['scored']} by loss: {numbers['best']:.6g}, median {numbers['median']:.6g}"
    assert f"selected  {text}" in printed and text in (folder / "log.txt").read_text()
    assert 0.92 * 1.7e9 <= last["budget"]["macs_hr"]["decoded"] == last["macs_hr_1280x720"] <= 1.7e9
    written = json.loads((folder / "genotype.json").read_text())
    assert {key: written[key] for key in ("arch", "genotype")} == last["genotype"]
    assert yaml.safe_load((folder / "network_g.yml").read_text())["network_g"]["genotype"] == genotype.names
    network = NETWORKS.get("IMDN")(2, 16, 1, genotype)
    assert not network.load_state_dict(load_file(folder / "inherited.safetensors"), strict=False).unexpected_keys
    for label, (name,) in genotype.picks:
        assert any(line.split()[:2] == [label, name] for line in printed.splitlines())


@pytest.mark.slow
def test_a_search_that_is_killed_while_it_selects_selects_the_same(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Scores) -> None:
        raise UserError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Scores, "best", killed)
        assert "killed" in search(tmp_path, *PATHS, code=1)
    assert len(read_history(tmp_path / "tiny")) == 3
    search(tmp_path, *PATHS, resume=True)
    assert_equal(everything(finished[0]), everything(tmp_path / "tiny"))


def test_without_epochs_there_is_nothing_to_select_by() -> None:
    with pytest.raises(UserError, match=r"selection one_shot follows the last step, and epochs 0 has none"):
        load_options(SearchOptions, TINY_SEARCH, ["search:epochs=0", "search:selection=one_shot"])
