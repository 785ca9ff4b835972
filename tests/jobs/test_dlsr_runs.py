"""From a search of the DLSR space to an exported network: the second space through the same commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sr_nas.export.network_file import load_network
from sr_nas.genotype import genotype_from
from sr_nas.networks.dlsr import DLSR
from sr_nas.runs.run_dir import read_history
from tests.conftest import REPOSITORY
from tests.jobs.processes import TINY_TRAINING, run

pytestmark = pytest.mark.slow  # the space itself, its training and its export are in the default tests of their parts

TINY_SEARCH = REPOSITORY / "tests" / "jobs" / "tiny_dlsr.yml"


def search(root: Path, *overrides: str) -> str:
    return run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={root}", *overrides)


def network_with(genotype: object) -> str:
    return f"network_g={{type: DLSR, nf: 8, num_cells: 4, genotype: {genotype}}}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("finished")
    return root / "tiny_dlsr", search(root)


def test_a_search_chooses_operations_and_inputs(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    history = read_history(folder)
    labels = ["op1", "op2", "op3", "inputs3", "inputs4"]
    for record in history:
        assert list(record["alpha"]) == labels
        assert [len(alpha) for alpha in record["alpha"].values()] == [3, 3, 3, 2, 3]
    for label in labels:
        assert history[0]["alpha"][label] != history[-1]["alpha"][label], label
    loss = history[-1]["loss"]
    assert loss["cost"] > 0 and loss["total"] == pytest.approx(loss["task"] + loss["regularizer"] + loss["cost"], abs=1e-4)
    genotype = genotype_from(json.loads((folder / "genotype.json").read_text()), "DLSR", DLSR.choices(4))
    last = history[-1]["beta"]["inputs4"]
    strongest = sorted(range(3), key=lambda index: -last[index])[:2]
    assert genotype["inputs4"] == tuple(f"cell{index + 1}" for index in strongest)
    words = [line.split() for line in printed.splitlines()]
    assert ["inputs4", "+".join(genotype["inputs4"]), f"{sorted(last)[1]:.3f}"] in [line[:3] for line in words]
    assert ["inputs3", "+".join(genotype["inputs3"]), "keeps", "all", "it", "can"] in words
    block = yaml.safe_load((folder / "network_g.yml").read_text())["network_g"]
    assert DLSR(2, block["nf"], block["num_cells"], block["genotype"]).genotype == genotype


@pytest.mark.slow
@pytest.mark.parametrize("on_inputs", [False, True])
def test_regularising_inputs_is_an_option(on_inputs: bool, tmp_path: Path) -> None:
    """In the first step the regulariser is lambda_1 = 0.2 times the mean of alpha: over operations, or over all choices."""
    search(tmp_path, f"search:regularizer:on_inputs={str(on_inputs).lower()}", "search:epochs=1", "search:steps_per_epoch=1")
    start, first = read_history(tmp_path / "tiny_dlsr")
    values = [value for label, alpha in start["alpha"].items() if on_inputs or label.startswith("op") for value in alpha]
    assert first["loss"]["regularizer"] == pytest.approx(0.2 * sum(values) / len(values), abs=1e-8)


def test_the_genotype_is_trained_and_exported(finished: tuple[Path, str], tmp_path: Path) -> None:
    run(
        "train",
        "-opt",
        TINY_TRAINING,
        "--force_yml",
        f"path:experiments_root={tmp_path}",
        network_with(finished[0]),
        "train:pixel_opt={type: L1HFENLoss, kernel_size: 7}",
        f"path:pretrain_network_g={finished[0] / 'inherited.safetensors'}",
        "path:strict_load_g=false",
    )
    run("export", "--run", tmp_path / "tiny_train", "-o", tmp_path / "net.safetensors")
    trained = load_network(tmp_path / "net.safetensors")
    assert trained.genotype.to_json().items() <= json.loads((finished[0] / "genotype.json").read_text()).items()
    assert json.loads(run("complexity", "--model", tmp_path / "net.safetensors", "--json"))["params"] == sum(
        parameter.numel() for parameter in trained.parameters()
    )


def test_a_wrong_genotype_is_one_message(tmp_path: Path) -> None:
    for genotype, words in (
        ("[conv_3x3, conv_3x3, sep_conv_9x9]", "'sep_conv_9x9' is not a candidate of DLSR.op3"),
        ("[conv_3x3, conv_3x3, conv_3x3, cell1+cell2, cell4+cell1]", "'cell4' is not a candidate of DLSR.inputs4"),
    ):
        printed = run(
            "train", "-opt", TINY_TRAINING, "--force_yml", f"path:experiments_root={tmp_path}", network_with(genotype), code=1
        )
        assert words in printed and "Allowed: " in printed and "Traceback" not in printed
    assert not list(tmp_path.iterdir())
