"""The analyses as commands: of histories with known numbers, of the bundled table, and of whole tiny searches.

Directions of a landscape have the stated length, and a surface is known in closed form.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from sr_nas.analysis.curves import replacement
from sr_nas.analysis.history import methods_of
from sr_nas.analysis.landscape import over_plane, random_direction
from sr_nas.classification.nasbench201 import EDGES, NASBENCH201_OPERATIONS, read_genotype
from sr_nas.classification.nasbench201_table import DATA_SETS, true_accuracy
from sr_nas.errors import UserError
from sr_nas.jobs.trials import OPTION_FILES
from sr_nas.options.load import dump_options, load_options
from sr_nas.report.tables import Table
from sr_nas.runs.run_dir import append_history, load_tensors, read_history
from sr_nas.task import build_searcher, search_options
from tests.conftest import REPOSITORY
from tests.jobs.processes import InThisProcess, run

SA_DARTS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
"""The network of the paper's table 6."""
OPTIONS = REPOSITORY / "options" / "nasbench201"
# Largest beta minus the second, on the first edge and on the others, by method and seed.
GAPS = {"darts": [(0.06, 0.3), (0.03, 0.3), (0.09, 0.01)], "beta": [(0.001, 0.2), (0.002, 0.2), (0.003, 0.2)]}


def made_up(folder: Path, file: str, seed: int, gaps: tuple[float, float], epochs: int = 3, name: str | None = None) -> Path:
    """A run folder whose every epoch e has alpha e on all edges, and the given gaps."""
    folder = folder / (name or f"{file}_seed{seed}")
    folder.mkdir()
    options = load_options(
        search_options, OPTIONS / f"{file}.yml", [f"name={folder.name}", f"manual_seed={seed}"], check_files=False
    )
    (folder / "options.yml").write_text(dump_options(options))
    for epoch in range(epochs):
        beta = {label: [0.2, 0.2, 0.1, 0.2, 0.2 + gap] for label, gap in zip(EDGES, (gaps[0], *[gaps[1]] * 5), strict=True)}
        record: dict[str, Any] = {"epoch": epoch, "step": epoch, "alpha": {label: [float(epoch + seed)] * 5 for label in EDGES}}
        record |= {"beta": beta, "loss": {}, "seconds": 1.0, "genotype": read_genotype(SA_DARTS).to_json()}
        append_history(folder, record | {"truth": {"cifar10": {"valid": 90.0, "test": 80.0 + epoch + seed}}})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("made_up")
    return [made_up(root, file, seed, gaps) for file, trials in GAPS.items() for seed, gaps in enumerate(trials)]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_gaps_are_compared_on_each_methods_closest_edge(runs: list[Path], tmp_path: Path) -> None:
    run("analyze", "gaps", *runs, "-o", tmp_path / "out")
    darts, beta = json.loads((tmp_path / "out" / "gaps.json").read_text())
    assert (darts["method"], darts["epoch"], darts["seeds"]) == ("darts", 2, [0, 1, 2])
    assert darts["edge"] == "1<-0" and darts["gap_edge"] == pytest.approx([0.06, 0.03, 0.09])
    assert darts["gap_edge_mean"] == pytest.approx(0.06) and darts["gap_edge_std"] == pytest.approx(0.03)
    assert darts["gap_worst"] == pytest.approx([0.06, 0.03, 0.01]) and darts["worst_edges"] == ["1<-0", "1<-0", "2<-0"]
    assert beta["gap_edge_mean"] == pytest.approx(0.002) and beta["gap_edge_std"] == pytest.approx(0.001)
    assert [float(row["gap_edge"]) for row in rows_of(tmp_path / "out" / "gaps.csv")][3:] == pytest.approx([0.001, 0.002, 0.003])


@pytest.mark.long
def test_nothing_after_the_epoch_that_is_asked_for_is_looked_at(runs: list[Path], tmp_path: Path) -> None:
    """Searches that have come to different epochs are compared at one that all have."""
    both = [runs[0], made_up(tmp_path, "beta", 0, (0.1, 0.1), epochs=2)]
    assert [method.epochs[-1] for method in methods_of(both)] == [2, 1]
    assert [method.epochs[-1] for method in methods_of(both, 1)] == [1, 1]
    run("analyze", "gaps", *both, "-o", tmp_path / "out", "--epoch", "1")
    assert [row["epoch"] for row in json.loads((tmp_path / "out" / "gaps.json").read_text())] == [1, 1]
    for verb in ("gaps", "curves"):
        assert "beta_seed0 has the epochs 0 to 1, and no epoch 2" in run("analyze", verb, *both, "--epoch", "2", code=1)


def test_nothing_is_written_over(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    printed = run("analyze", "gaps", runs[0], "-o", tmp_path / "mine", code=1)
    assert "nothing is written over" in printed and [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_a_kill_has_left_stands_in_nobodys_way(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".gaps-unfinished-0123456789ab.json").write_text("{")
    run("analyze", "gaps", runs[0], "-o", tmp_path / "mine")
    assert (tmp_path / "mine" / "gaps.json").is_file()


def test_analyses_without_a_folder_are_numbered(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("analyze", "replace", runs[0])
    run("analyze", "replace", runs[1])
    assert sorted(folder.name for folder in (tmp_path / "analyses").iterdir()) == ["replace", "replace_2"]


def test_methods_are_told_apart_by_their_options_and_not_by_their_names(runs: list[Path], tmp_path: Path) -> None:
    other = made_up(tmp_path, "darts", 7, (0.1, 0.1), name="unlike")
    result = methods_of([*runs, other])
    assert [(method.name, method.seeds) for method in result] == [("darts", [0, 1, 2, 7]), ("beta", [0, 1, 2])]
    with pytest.raises(UserError, match="would count twice"):
        methods_of([*runs, made_up(tmp_path, "beta", 2, (0.1, 0.1), name="again")])


def test_a_folder_of_a_sweep_stands_for_its_searches(tmp_path: Path) -> None:
    """It is taken in any form: by that folder, by its runs, or by both; the newest run of a trial counts."""
    runs = [made_up(tmp_path, "sa", seed, (0.1, 0.1)) for seed in (2, 10)]
    runs.append(made_up(tmp_path, "sa", 11, (0.1, 0.1), name="sa_seed11_2"))
    (tmp_path / "sa_seed11").mkdir()
    (tmp_path / OPTION_FILES).mkdir()
    for folder, seed in zip(runs, (2, 10, 11), strict=True):
        (folder / "checkpoint.pt").touch()
        (tmp_path / OPTION_FILES / f"sa_seed{seed}.yml").touch()
    for named in ([tmp_path], [*runs, tmp_path], runs):
        (method,) = methods_of(named)
        assert method.seeds == [2, 10, 11] and [run.folder for run in method.runs] == runs


def test_two_methods_of_one_name_are_both_named(tmp_path: Path) -> None:
    both = [made_up(tmp_path, "sa", 0, (0.1, 0.1), name="x"), made_up(tmp_path, "darts", 0, (0.1, 0.1), name="x_2")]
    options = both[1] / "options.yml"
    options.write_text(options.read_text().replace("name: x_2", "name: x"))
    assert [method.name for method in methods_of(both)] == ["x (x)", "x (x_2)"]


@pytest.mark.slow
def test_curves_are_means_and_deviations_over_seeds(runs: list[Path], tmp_path: Path) -> None:
    run("analyze", "curves", *runs, made_up(tmp_path, "darts", 3, (0.1, 0.1), epochs=2), "-o", tmp_path / "out", "--edge", "2<-0")
    content = json.loads((tmp_path / "out" / "curves.json").read_text())
    beta, darts = content["beta"]["quantities"], content["darts"]
    assert beta["alpha_mean"]["mean"] == [1.0, 2.0, 3.0] and beta["alpha_mean"]["std"] == [1.0, 1.0, 1.0]
    assert beta["cifar10_test"]["mean"] == [81.0, 82.0, 83.0]
    assert darts["epochs"] == [0, 1], "as far as all seeds have come"
    last = [0.3, 0.3, 0.01, 0.1]
    assert darts["beta"]["2<-0"]["mean"][1][4] == pytest.approx(0.2 + fmean(last))
    assert darts["beta"]["2<-0"]["std"][1][4] == pytest.approx(stdev(last))
    assert darts["quantities"]["share_skip_connect"]["mean"] == pytest.approx([1 / 6] * 2)
    rows = rows_of(tmp_path / "out" / "curves.csv")
    assert len(rows) == 3 * 3 + 4 * 2 and float(rows[-1]["cifar10_test"]) == 84.0
    for name in ("overview", "alpha", "gap", "share", "accuracy", "beta", "beta_darts", "beta_beta"):
        assert cv2.imread(str(tmp_path / "out" / f"{name}.png")).std() > 0
    assert not (tmp_path / "out" / "loss.png").exists(), "what no history has is not drawn"


def test_table_6_has_the_best_of_the_benchmark_and_what_searches_end_with(runs: list[Path], tmp_path: Path) -> None:
    """Tests of table 6: optimal 94.37 / 73.51 / 47.31, ResNet 93.91 / 70.89 / 44.23. The search's is there from epoch 1."""
    folder = made_up(tmp_path, "sa", 0, (0.1, 0.1), epochs=6)
    records = [record | {"seconds": 3600.0, "truth": true_accuracy(read_genotype(SA_DARTS))} for record in read_history(folder)]
    other = read_genotype("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|").to_json()
    records[0] |= {"genotype": other, "seconds": 0.0}
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    printed = run("analyze", "accuracies", folder, "-o", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "accuracies.json").read_text())
    tests = {name: [round(np.mean(row[f"{key}_test"]), 2) for key in DATA_SETS] for name, row in content.items()}
    assert tests == {"optimal": [94.37, 73.51, 47.31], "ResNet": [93.91, 70.89, 44.23], "sa": [94.36, 73.51, 46.34]}
    assert content["sa"]["settled"] == [1] and content["sa"]["hours_settled"] == [1] and content["sa"]["hours"] == [5]
    assert "1 of 1" in printed and "1 / 5" in printed and "0.46" in printed  # ResNet's regret
    assert content["sa"]["regret, cifar10_test"] == pytest.approx([94.37 - 94.36], abs=0.006)
    assert "darts is no search of NAS-Bench-201" in run("analyze", "accuracies", runs[0], code=1)


def test_replacing_the_first_edge_gives_the_accuracies_of_the_table() -> None:
    betas = dict(zip(NASBENCH201_OPERATIONS, [0.1, 0.2, 0.25, 0.3, 0.15], strict=True))
    result = replacement(read_genotype(SA_DARTS), betas, "1<-0")
    assert list(result.betas.values()) == [0.3, 0.25, 0.2, 0.15, 0.1]
    assert list(result.betas) == ["nor_conv_3x3", "nor_conv_1x1", "skip_connect", "avg_pool_3x3", "none"]
    # The paper prints 73.5, 72.3, 70.78, 71.8 and 70.02. The last two are none of the table's means, of any edge.
    assert result.accuracies["cifar100"] == pytest.approx([73.51, 72.30, 70.78, 71.37, 70.37], abs=0.006)
    right, pairs = result.in_order("cifar100")
    assert (right, pairs) == (9, 10)  # all but skip and pooling


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of two searches."""
    root = tmp_path_factory.mktemp("sweep")
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8), np.arange(16) % 3
    np.savez(root / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, classes=["a", "b", "c"])
    tiny = ["name=tiny", "num_gpu=0", "network_g:channels=4", "network_g:num_cells=1", "datasets:train:batch_size_per_gpu=4"]
    tiny += ["search:epochs=1", "search:steps_per_epoch=1", f"path:experiments_root={root}", "search:alpha:optim:lr=0.1"]
    tiny += [f"datasets:train={{type: npz, dataroot: {root / 'images.npz'}}}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sr_nas.analysis.sweep.Processes", lambda *_: InThisProcess())
        run("sweep", "-opt", OPTIONS / "sa.yml", "--grid", "search:regularizer:nu=0,1", "--force_yml", *tiny)
    return root / "tiny_sweep"


def test_a_grid_of_searches_reports_what_their_histories_hold(swept: Path) -> None:
    for row, nu in zip(rows_of(swept / "sweep.csv"), ("0", "1"), strict=True):
        last = read_history(swept / f"tiny-nu{nu}")[-1]
        assert row["search:regularizer:nu"] == nu
        assert float(row["cifar10_test"]) == last["truth"]["cifar10"]["test"]
        assert float(row["loss_task"]) == last["loss"]["task"]
    assert cv2.imread(str(swept / "sweep.png")).std() > 0


@pytest.mark.long
def test_the_middle_of_a_landscape_is_the_search_itself(swept: Path, tmp_path: Path) -> None:
    folder, root = swept / "tiny-nu1", tmp_path
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    printed = run("analyze", "landscape", folder, "--grid", "3", "--batches", "2", "-o", root / "one")
    assert "tiny-nu1: row 2 of 3  time left " in printed
    run("analyze", "landscape", folder, "--grid", "3", "--batches", "2", "-o", root / "two")
    assert (root / "one" / "landscape.csv").read_bytes() == (root / "two" / "landscape.csv").read_bytes()
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    rows = {(float(row["first"]), float(row["second"])): row for row in rows_of(root / "one" / "landscape.csv")}
    assert len(rows) == 9 and len({row["loss"] for row in rows.values()}) == 9

    as_stored = ["datasets:train:crop_padding=0", "datasets:train:use_hflip=false", "datasets:train:cutout=0"]
    searcher = build_searcher(load_options(search_options, folder / "options.yml", as_stored), torch.device("cpu"))
    state = load_tensors(folder / "checkpoint.pt")
    searcher.space.load_state_dict(state["space"])
    weights = {label: state["alpha"][f"logits.{label}"].softmax(0) for label in EDGES}
    outputs, labels = [], []
    for _ in range(2):
        images, target = searcher.validation.next()
        outputs.append(searcher.space.train()(images, weights).detach())
        labels.append(target)
    loss = fmean(float(torch.nn.functional.cross_entropy(*pair)) for pair in zip(outputs, labels, strict=True))
    assert float(rows[0.0, 0.0]["loss"]) == pytest.approx(loss, rel=1e-5)
    right = (torch.cat(outputs).argmax(1) == torch.cat(labels)).float().mean()
    assert float(rows[0.0, 0.0]["accuracy"]) == pytest.approx(100 * float(right))

    run("analyze", "variances", folder, "--batches", "1", "-o", root / "variances")
    measured = rows_of(root / "variances" / "variances.csv")
    assert [row["choice"] for row in measured[::5]] == list(EDGES)
    assert cv2.imread(str(root / "variances" / "variances.png")).std() > 0
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_a_landscape_that_is_stopped_keeps_the_rows_it_has(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(7))

    def measure(alpha: object) -> dict[str, float]:
        if next(calls) == 6:
            raise KeyboardInterrupt
        return {"loss": 1.0}

    monkeypatch.setattr("sr_nas.analysis.landscape._measure", lambda *_: measure)
    run("analyze", "landscape", swept / "tiny-nu1", "--grid", "3", "-o", tmp_path / "out", code=130)
    assert [float(row["second"]) for row in rows_of(tmp_path / "out" / "landscape.csv")] == [-1.0] * 3 + [0.0] * 3


def test_a_table_too_wide_for_the_terminal_is_written_row_by_row() -> None:
    rows = [{"quantity": f"accuracy_of_a_long_name_{number}", **{f"heading_{k}": "0.123" for k in range(9)}} for number in (1, 2)]
    for tty, width in ((True, 80), (True, 160), (False, 80)):
        console = Console(file=io.StringIO(), force_terminal=tty, width=width, color_system=None, legacy_windows=False)
        Table(rows).print(console)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert printed.count("heading_8") == (2 if (tty, width) == (True, 80) else 1)
        assert all(f"accuracy_of_a_long_name_{number}" in printed for number in (1, 2))
        assert not tty or max(map(len, printed.splitlines())) <= width


ALPHA = {"a": torch.tensor([-7.0, -4.0, -4.0], dtype=torch.float64), "b": torch.tensor([0.0, 3.0], dtype=torch.float64)}


def test_a_direction_is_as_long_as_alpha_without_its_common_part() -> None:
    result = random_direction(ALPHA, (0, 0), "alpha")
    # Centred, alpha is (-2, 1, 1) and (-1.5, 1.5).
    assert result["a"].norm() == pytest.approx(6**0.5) and result["b"].norm() == pytest.approx(4.5**0.5)
    assert all(part.sum() == pytest.approx(0.0, abs=1e-12) for part in result.values())
    assert all(part.norm() == pytest.approx(1.0) for part in random_direction(ALPHA, (0, 0), "unit").values())


def test_what_all_logits_share_changes_no_direction() -> None:
    shifted = {label: logits - 100 for label, logits in ALPHA.items()}
    for label, part in random_direction(shifted, (3, 1), "alpha").items():
        assert torch.allclose(part, random_direction(ALPHA, (3, 1), "alpha")[label], atol=1e-12)


def test_directions_depend_on_the_seed_alone() -> None:
    first, again, other = (random_direction(ALPHA, seed, "unit")["a"] for seed in ((5, 0), (5, 0), (5, 1)))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_plane_is_measured_at_alpha_plus_both_steps() -> None:
    first, second = (random_direction(ALPHA, (0, number), "alpha") for number in (0, 1))
    steps = [-1.0, 0.0, 2.0]

    def measure(alpha: dict[str, torch.Tensor]) -> dict[str, float]:
        return {"square": float(sum(logits.square().sum() for logits in alpha.values())), "first": float(alpha["a"][0])}

    rows = list(over_plane(measure, ALPHA, (first, second), steps))
    dot = [[float(sum((x[k] * y[k]).sum() for k in ALPHA)) for y in (ALPHA, first, second)] for x in (ALPHA, first, second)]
    for row, b in enumerate(steps):
        for column, a in enumerate(steps):
            coefficients = (1.0, a, b)
            square = sum(dot[i][j] * coefficients[i] * coefficients[j] for i in range(3) for j in range(3))
            assert rows[row][column]["square"] == pytest.approx(square)
            assert rows[row][column]["first"] == pytest.approx(float(ALPHA["a"][0] + a * first["a"][0] + b * second["a"][0]))
