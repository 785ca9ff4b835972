"""The benchmark table, from an option file to the files that it writes; its crops against a search of every square."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from collections import Counter
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from sr_nas.analysis import model_table
from sr_nas.analysis.model_table import (
    MEASUREMENTS,
    Benchmark,
    Degradations,
    Entry,
    crop_picture,
    digest,
    file_digest,
)
from sr_nas.complexity.costs import complexity
from sr_nas.data.sources import Pairs, folder
from sr_nas.errors import UserError
from sr_nas.export.network_file import load_network, save_network
from sr_nas.images.files import read_rgb, write_image
from sr_nas.inference.images import upscaler
from sr_nas.metrics import bicubic, psnr, score
from sr_nas.networks.imdn import IMDN
from sr_nas.options.load import check_options
from sr_nas.report.plots import extreme_gains, squared_error
from tests.jobs.processes import TINY_TRAINING, run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, a set with its own LR images at x2, and one without."""
    place = tmp_path_factory.mktemp("benchmark")
    torch.manual_seed(0)
    for scale in (2, 3):
        save_network(place / f"x{scale}.safetensors", IMDN(scale, nf=16, num_blocks=1).eval())
    random = np.random.default_rng(0)
    for name, count in (("Own", 3), ("Made", 2)):
        for number in range(count):
            coarse = random.integers(0, 256, (7 + number, 9, 3), np.uint8)
            write_image(place / name / "HR" / f"photo{number}.png", cv2.resize(coarse, (54, 48), interpolation=cv2.INTER_CUBIC))
    for number in range(3):
        lr = random.integers(0, 256, (24, 27, 3), np.uint8)
        write_image(place / "Own" / "LR_matlab" / "x2" / f"photo{number}x2.png", lr)
    return place


def option_file(tmp_path: Path, place: Path, **changes: Any) -> Path:
    options = {
        "name": "table",
        "num_gpu": 0,
        "datasets": {"Own": str(place / "Own"), "Made": str(place / "Made")},
        "models": {"two": {"path": str(place / "x2.safetensors")}, "three": {"path": str(place / "x3.safetensors")}},
        "path": {"experiments_root": str(tmp_path)},
        "crop": 16,
    }
    file = tmp_path / "table.yml"
    file.write_text(yaml.safe_dump(options | changes, sort_keys=False))
    return file


def table(root: Path) -> dict[str, Any]:
    return json.loads((root / "table" / "table.json").read_text())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What has been measured, and not taken from before, by model."""
    counts: Counter[str] = Counter()
    original = Benchmark.measure

    def counted(self: Benchmark, entry: Entry, *rest: Any) -> Any:
        counts[f"{entry.name} x{entry.scale}"] += 1
        return original(self, entry, *rest)

    monkeypatch.setattr(Benchmark, "measure", counted)
    return counts


ALL = {"bicubic x2": 5, "bicubic x3": 5, "two x2": 5, "three x3": 5}


def test_a_set_says_what_its_degraded_lr_images_are_made_of() -> None:
    """LR images that a folder holds are not looked at by steps that begin with HR."""
    options = check_options(Degradations, {"degradations": {"a": ["jpeg"], "b": ["downscale"]}}, "test")
    found = [(name, origin) for name, _, origin in options.of("Set5", Pairs([], 2, len), "Set5/LR")]
    assert found == [("Set5", "Set5/LR"), ("Set5-a", "Set5/LR, then a"), ("Set5-b", "HR, then b")]
    assert check_options(Degradations, {"degradations": None}, "test").degradations == {}


@pytest.mark.long
def test_one_evaluator_gives_one_number_everywhere(tmp_path: Path, place: Path) -> None:
    """The table, ``evaluate --model`` and a training's validation, to the last bit; on clean LR images and on JPEG ones."""
    data, jpeg = f"type: folder, dataroot_gt: {place / 'Made' / 'HR'}", [{"type": "jpeg", "quality": 75}]
    sets = [f"datasets:val={{{data}}}", f"datasets:val_2={{{data}, name: jpeg, degradation: {json.dumps(jpeg)}}}"]
    run("train", "-opt", TINY_TRAINING, "--force_yml", f"path:experiments_root={tmp_path}", *sets, "name=net")
    lines = [json.loads(line) for line in (tmp_path / "net" / "history.jsonl").read_text().splitlines()]
    validated, compressed = max((line["val"].values() for line in lines), key=lambda scores: next(iter(scores))["psnr"])
    models = {"net": {"path": str(tmp_path / "net")}}
    run("evaluate", "-opt", option_file(tmp_path, place, models=models, degradations={"jpeg75": jpeg}))
    baseline, row = table(tmp_path)["models"]
    for name in ("Own", "Made"):
        words = ("--model", tmp_path / "net", "--data", place / name, "--jpeg", "75", "--json", "--num_gpu", "0")
        printed = run("evaluate", *words)
        found = json.loads(printed[printed.index("{") :])["sets"]
        for (key, single), metric in product(found.items(), ("psnr", "ssim")):
            assert row["sets"][key][metric] == single[metric]
            assert baseline["sets"][key][metric] == single["bicubic"][metric]
            for image, scores in single["images"].items():
                assert row["sets"][key]["images"][image][metric] == scores[metric]
            assert row["sets"][key]["lr"] == single["lr"]
        assert list(found) == [name, f"{name}-jpeg75"] and found[name]["psnr"] != found[f"{name}-jpeg75"]["psnr"]
        assert found[f"{name}-jpeg75"]["lr"].endswith(", then jpeg75")
    assert compressed["psnr"] == row["sets"]["Made-jpeg75"]["psnr"]
    assert (row["sets"]["Made"]["psnr"], row["sets"]["Made"]["ssim"]) == (validated["psnr"], validated["ssim"])


@pytest.mark.slow
def test_the_released_imdn_in_the_table(shared: Path, tmp_path: Path) -> None:
    models = {"IMDN": {"path": str(shared / "weights" / "IMDN_x4.pth"), "arch": "imdn"}}
    printed = run("evaluate", "-opt", option_file(tmp_path, shared, models=models, datasets={"Set5": str(shared / "data/Set5")}))
    assert "32.21 / .8948" in printed
    assert "28.43 / .8113" in printed
    bicubic_row, row = table(tmp_path)["models"]
    assert (bicubic_row["scale"], row["scale"], row["params"]) == (4, 4, 715_176)  # IMDN's paper: 715K


def test_screen_markdown_csv_and_json_agree(tmp_path: Path, place: Path) -> None:
    printed = run("evaluate", "-opt", option_file(tmp_path, place))
    results = table(tmp_path)
    assert [(row["name"], row["scale"]) for row in results["models"]] == [
        ("bicubic", 2),
        ("bicubic", 3),
        ("two", 2),
        ("three", 3),
    ]
    with (tmp_path / "table" / "table.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    markdown, page = ((tmp_path / "table" / name).read_text() for name in ("table.md", "report.html"))
    assert len(lines) == 8
    assert page.count("<img") == 8 * 3 and page.count('type="range"') == 8  # best and worst of each set and scale
    for row in results["models"]:
        counted = {} if row["name"] == "bicubic" else complexity(load_network(place / f"x{row['scale']}.safetensors"))
        assert {key: row[key] for key in counted} == counted
        for name, numbers in row["sets"].items():
            (line,) = [
                line for line in lines if (line["model"], line["scale"], line["set"]) == (row["name"], str(row["scale"]), name)
            ]
            images = list(numbers["images"].values())
            assert numbers["psnr"] == pytest.approx(np.mean([image["psnr"] for image in images]))
            assert numbers["seconds"] == pytest.approx(np.mean([image["seconds"] for image in images]))
            assert numbers["memory_bytes"] == max(image["memory_bytes"] for image in images)
            assert (float(line["psnr"]), float(line["ssim"])) == (numbers["psnr"], numbers["ssim"])
            assert line["params"] == str(row.get("params", ""))
            cell = f"{numbers['psnr']:.2f} / {numbers['ssim']:.4f}".replace(" 0.", " .")
            assert cell in printed
            assert f" {cell} |" in markdown and f"<td>{cell}</td>" in page
    assert "resident memory" in printed
    assert results["complete"]


@pytest.mark.long
def test_nothing_is_measured_twice(tmp_path: Path, place: Path, measured: Counter[str]) -> None:
    file = option_file(tmp_path, place)
    run("evaluate", "-opt", file)
    assert measured == ALL
    first = table(tmp_path)
    pictures = {path: path.stat().st_mtime_ns for path in (tmp_path / "table" / "crops").iterdir()}
    assert {path.name for path in pictures} == {
        f"{name}_x{scale}_{which}.png" for name in ("Own", "Made") for scale in (2, 3) for which in ("best", "worst")
    }
    measured.clear()
    run("evaluate", "-opt", file)
    assert not measured
    assert table(tmp_path) == first
    assert all(path.stat().st_mtime_ns == before for path, before in pictures.items())

    cache = json.loads((tmp_path / "table" / MEASUREMENTS).read_text())
    next(records for records in cache.values() if records[-1].get("crops")).pop()
    (tmp_path / "table" / MEASUREMENTS).write_text(json.dumps(cache))
    run("evaluate", "-opt", file)
    assert measured == {"two x2": 1}
    (tmp_path / "table" / MEASUREMENTS).write_text('{"a": ')
    assert f"{MEASUREMENTS} is no JSON" in run("evaluate", "-opt", file, code=1)
    for damaged in ([], {"a": 3}, {"a": [3]}, {"a": [{"psnr": 1, "ssim": 1, "seconds": "1", "memory_bytes": None}]}):
        (tmp_path / "table" / MEASUREMENTS).write_text(json.dumps(damaged))
        assert f"{MEASUREMENTS} is damaged. Delete it" in run("evaluate", "-opt", file, code=1)


@pytest.mark.long
def test_what_changes_is_measured_again_and_nothing_else(tmp_path: Path, place: Path, measured: Counter[str]) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((place / "x2.safetensors").read_bytes())
    file = option_file(tmp_path, place, models={"two": {"path": str(copy)}}, bicubic=[])
    run("evaluate", "-opt", file)
    measured.clear()

    run("evaluate", "-opt", file, "--force_yml", "models:two=null", f"models:renamed:path={copy}")
    assert not measured, "another name is no other network"
    run("evaluate", "-opt", file, "--force_yml", "models:two:tile=20")
    assert measured == {"two x2": 5}
    measured.clear()
    run("evaluate", "-opt", file, "--force_yml", "crop=20")
    assert measured == {"two x2": 5}, "other crops need other gains"
    measured.clear()

    before = table(tmp_path)["models"][0]["sets"]["Made"]["psnr"]
    save_network(copy, IMDN(2, nf=16, num_blocks=1).eval())
    run("evaluate", "-opt", file, "--force_yml", "crop=20")
    assert measured == {"two x2": 5}
    assert table(tmp_path)["models"][0]["sets"]["Made"]["psnr"] != before


def test_a_set_with_another_image_is_measured(tmp_path: Path, place: Path, measured: Counter[str]) -> None:
    for number in range(2):
        write_image(tmp_path / "Set" / f"{number}.png", read_rgb(place / "Made" / "HR" / f"photo{number}.png"))
    file = option_file(tmp_path, place, datasets={"Set": str(tmp_path / "Set")}, models={}, bicubic=[2])
    run("evaluate", "-opt", file)
    measured.clear()
    write_image(tmp_path / "Set" / "1.png", read_rgb(place / "Own" / "HR" / "photo2.png"))
    run("evaluate", "-opt", file)
    assert measured == {"bicubic x2": 2}


@pytest.mark.long
@pytest.mark.parametrize("stopped_by", [signal.SIGINT, SystemExit])
def test_a_stopped_benchmark_goes_on(
    tmp_path: Path, place: Path, measured: Counter[str], monkeypatch: pytest.MonkeyPatch, stopped_by: Any
) -> None:
    """A signal ends it after the image in progress; whatever else ends it loses that image alone."""
    counted = Benchmark.measure

    def stopping(*arguments: Any) -> Any:
        if sum(measured.values()) == 6:
            if stopped_by is SystemExit:
                raise SystemExit(3)
            os.kill(os.getpid(), stopped_by)
        return counted(*arguments)

    file = option_file(tmp_path, place)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) if stopped_by is SystemExit else nullcontext():
        patch.setattr(Benchmark, "measure", stopping)
        run("evaluate", "-opt", file, code=130)
        assert not table(tmp_path)["complete"]
    count = sum(len(records) for records in json.loads((tmp_path / "table" / MEASUREMENTS).read_text()).values())
    assert count == (6 if stopped_by is SystemExit else 7)
    measured.clear()
    run("evaluate", "-opt", file)
    assert sum(measured.values()) == 20 - count and table(tmp_path)["complete"]


def test_a_missing_set_is_named_and_the_others_are_measured(tmp_path: Path, place: Path) -> None:
    datasets = {"B100": str(place / "B100"), "Made": str(place / "Made"), "Urban100": str(place / "x2.safetensors")}
    file = option_file(tmp_path, place, datasets=datasets)
    printed = run("evaluate", "-opt", file, code=1)
    assert printed.count(f"not measured: B100: folder '{place / 'B100'}' does not exist") == 1
    assert f"put its HR images into {place / 'B100'}/HR" in printed
    assert "--force_yml datasets:B100=FOLDER" in printed
    assert "is a file, not a folder" in printed
    results = table(tmp_path)
    assert [list(row["sets"]) for row in results["models"]] == [["Made"]] * 4
    assert [problem["where"] for problem in results["problems"]] == ["B100", "Urban100"]
    assert not results["complete"]
    assert "B100" in (tmp_path / "table" / "table.md").read_text()
    run("evaluate", "-opt", file, "--force_yml", "datasets:B100=null", "datasets:Urban100=null")


def test_an_image_that_cannot_be_read_costs_its_set_only(tmp_path: Path, place: Path) -> None:
    write_image(tmp_path / "Bad" / "a.png", read_rgb(place / "Made" / "HR" / "photo0.png"))
    (tmp_path / "Bad" / "b.png").write_bytes((tmp_path / "Bad" / "a.png").read_bytes()[:100])
    datasets = {"Bad": str(tmp_path / "Bad"), "Made": str(place / "Made")}
    printed = run("evaluate", "-opt", option_file(tmp_path, place, datasets=datasets, models={}, bicubic=[2]), code=1)
    assert "not measured: bicubic on Bad x2: cannot read the image" in printed
    assert list(table(tmp_path)["models"][0]["sets"]) == ["Made"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_costs_a_set_only(
    tmp_path: Path, place: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(sr: np.ndarray, hr: np.ndarray, scale: int, name: str) -> dict[str, float]:
        if (scale, name) == (2, "photo2"):
            raise error
        return score(sr, hr, scale, name)

    monkeypatch.setattr("sr_nas.analysis.model_table.score", scored)
    models = {"two": {"path": str(place / "x2.safetensors")}}
    printed = run("evaluate", "-opt", option_file(tmp_path, place, models=models), code=1)
    assert "not measured: bicubic on Own x2: the memory does not suffice to read, upscale and score an image." in printed
    assert "score an image. Tiles take less: set models.two.tile" in printed
    assert [list(row["sets"]) for row in table(tmp_path)["models"]] == [["Made"]] * 2


def test_advice_is_about_what_is_there(tmp_path: Path, place: Path) -> None:
    write_image(tmp_path / "Unpaired" / "HR" / "a.png", read_rgb(place / "Made" / "HR" / "photo0.png"))
    write_image(tmp_path / "Unpaired" / "LR_matlab" / "x2" / "b.png", np.zeros((24, 27, 3), np.uint8))
    datasets = {"Unpaired": str(tmp_path / "Unpaired"), "File": str(place / "Made" / "HR" / "photo0.png")}
    run("evaluate", "-opt", option_file(tmp_path, place, datasets=datasets, models={}, bicubic=[2]), code=1)
    for problem, what in zip(table(tmp_path)["problems"], ("LR", "is a file"), strict=True):
        assert what in problem["text"] and "HR images into" not in problem["text"] and "prepare_data" not in problem["text"]
        assert "FOLDER, or leave it out with datasets:" in problem["text"]


@pytest.mark.slow
def test_saved_images_are_what_was_scored(tmp_path: Path, place: Path, measured: Counter[str]) -> None:
    file = option_file(tmp_path, place)
    run("evaluate", "-opt", file)
    assert not (tmp_path / "table" / "images").exists()
    measured.clear()
    run("evaluate", "-opt", file, "--save_images")
    assert measured == ALL
    images = tmp_path / "table" / "images"
    assert len(list(images.rglob("*.png"))) == 20
    lr = read_rgb(place / "Own" / "LR_matlab" / "x2" / "photo1x2.png")
    network = load_network(place / "x2.safetensors")
    np.testing.assert_array_equal(read_rgb(images / "two" / "Own_x2" / "photo1.png"), upscaler(network, device="cpu")(lr, 2))
    np.testing.assert_array_equal(read_rgb(images / "bicubic" / "Own_x2" / "photo1.png"), bicubic(lr, 2))
    measured.clear()
    (images / "two" / "Own_x2" / "photo1.png").unlink()
    write_image(images / "three" / "Made_x3" / "photo0.png", np.zeros((48, 54, 3), np.uint8))
    run("evaluate", "-opt", file, "--save_images")
    assert measured == {"two x2": 1, "three x3": 1}


def test_the_self_ensemble_is_asked_for_where_the_options_do(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def watched(network: Any, **how: Any) -> Any:
        asked.append(how)
        return upscaler(network, **how)

    monkeypatch.setattr(model_table, "upscaler", watched)
    path = str(place / "x2.safetensors")
    models = {"one": {"path": path, "tile": 20}, "eight": {"path": path, "ensemble": True}}
    run("evaluate", "-opt", option_file(tmp_path, place, models=models, bicubic=[]))
    result = {(call["ensemble"], call["tile"], call["precision"], str(call["device"])) for call in asked}
    assert result == {(False, 20, "fp32", "cpu"), (True, None, "fp32", "cpu")}
    one, eight = table(tmp_path)["models"]
    assert {one["sets"][name]["psnr"] for name in one["sets"]} != {eight["sets"][name]["psnr"] for name in eight["sets"]}
    assert (one["params"], 8 * one["macs_hr_1280x720"]) == (eight["params"], eight["macs_hr_1280x720"])


def test_a_further_metric_is_a_further_figure(
    tmp_path: Path, place: Path, measured: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def distance(sr: np.ndarray, hr: np.ndarray) -> float:
        return float(np.abs(sr.astype(float) - hr).mean() / 255)

    monkeypatch.setattr(model_table, "perceptual_metrics", lambda names, device: dict.fromkeys(names, distance))
    file = option_file(tmp_path, place, models={}, bicubic=[2], datasets={"Made": str(place / "Made")})
    run("evaluate", "-opt", file)
    assert table(tmp_path)["metrics"] == ["psnr", "ssim"]
    measured.clear()
    printed = run("evaluate", "-opt", file, "--force_yml", "perceptual=[lpips]")
    assert measured == {"bicubic x2": 2}
    pairs = folder([str(place / "Made" / "HR")], scale=2)
    expected = np.mean([distance(bicubic(pairs.lr(index), 2), pairs.hr(index)) for index in range(2)])
    result = table(tmp_path)["models"][0]["sets"]["Made"]
    assert result["lpips"] == pytest.approx(expected)
    assert "PSNR / SSIM / LPIPS" in printed
    assert f" / {expected:.4f}".replace(" 0.", " .") in printed
    assert "LPIPS 0.1 with AlexNet" in printed


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, place: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "options.yml").write_text("mine")
    assert "holds no benchmark but something else" in run("evaluate", "-opt", option_file(tmp_path, place), code=1)
    assert [(path.name, path.read_text()) for path in (tmp_path / "table").iterdir()] == [("options.yml", "mine")]


def test_a_table_that_was_killed_in_its_first_write_is_begun_again(tmp_path: Path, place: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / ".measurements-unfinished-0123456789ab.json").write_text("{")
    run(
        "evaluate",
        "-opt",
        option_file(
            tmp_path, place, datasets={"Made": str(place / "Made")}, models={"two": {"path": str(place / "x2.safetensors")}}
        ),
    )
    assert (tmp_path / "table" / "table.json").is_file()


def test_all_models_that_cannot_be_loaded_are_told_before_anything_is_measured(tmp_path: Path, place: Path) -> None:
    torch.save({"params": {"a": torch.zeros(1)}}, tmp_path / "weights.pth")
    (tmp_path / "broken.safetensors").touch()
    models = {"a": {"path": str(tmp_path / "weights.pth")}, "b": {"path": str(tmp_path / "broken.safetensors")}}
    printed = run("evaluate", "-opt", option_file(tmp_path, place, models=models), code=1)
    assert "models.a: " in printed and "does not say which network its tensors are of" in printed
    assert "models.b: " in printed and "broken.safetensors is empty" in printed
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--model and --data, or an option file with -opt"),
        (["--model", "x"], "--model and --data, or an option file with -opt"),
        (["--model", "x", "--data", "y", "--save_images"], "--save_images belongs to -opt"),
        (["-opt", "x", "--scale", "2"], "--scale is said by the option file"),
        (["-opt", "x", "--num_threads", "2"], "--num_threads is said by the option file"),
    ],
)
def test_the_two_forms_are_not_mixed(words: list[str], text: str) -> None:
    assert text in run("evaluate", *words, code=1)


def test_digests_differ_where_their_parts_do(tmp_path: Path) -> None:
    assert digest("a", {"x": 1, "y": 2}) == digest("a", {"y": 2, "x": 1})
    assert len({digest("ab"), digest("a", "b"), digest(["a", "b"]), digest("a", None), digest("a", 1), digest("a", True)}) == 6
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2, appendix B.1
    with pytest.raises(UserError, match="cannot be read"):
        file_digest(tmp_path)


def noise(seed: int, height: int = 22, width: int = 25) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("side", [1, 6, 18])
def test_best_and_worst_against_brute_force(side: int) -> None:
    hr, sr, baseline = noise(0), noise(1), noise(2)
    result = extreme_gains(sr, baseline, hr, 2, side)
    before, after, boxes = [], [], []
    for top in range(2, 20 - side + 1):
        for left in range(2, 23 - side + 1):
            inner = (slice(top, top + side), slice(left, left + side))
            boxes.append((left, top, left + side, top + side))
            before.append(squared_error(baseline, hr)[inner].mean())
            after.append(squared_error(sr, hr)[inner].mean())
    removed = [a - b for a, b in zip(before, after, strict=True)]
    assert result["best"][1] == boxes[int(np.argmax(removed))]
    assert result["best"][0] == pytest.approx(max(removed))
    decibels = {
        box: 10 * math.log10(max(a, 0.01) / max(b, 0.01))
        for box, a, b in zip(boxes, before, after, strict=True)
        if a >= np.mean(before)
    }
    assert result["worst"][1] == min(decibels, key=lambda box: decibels[box])
    assert result["worst"][0] == pytest.approx(min(decibels.values()))


def test_the_worst_is_not_a_place_where_nothing_can_be_gained() -> None:
    hr = np.full((40, 80, 3), 100, np.uint8)
    baseline, sr = hr.copy(), hr.copy()
    baseline[:, 40:], sr[:, 40:] = 120, 130  # worse than the baseline where that errs
    sr[5, 5] = 101  # and by far more decibels worse where it does not
    assert extreme_gains(sr, baseline, hr, 0, 10)["worst"][1][0] >= 31


def test_an_image_smaller_than_the_square() -> None:
    result = extreme_gains(noise(1), noise(2), noise(0), 3, 96)
    assert all(right - left == 16 and bottom - top == 16 for _, (left, top, right, bottom) in result.values())


def test_the_picture_has_a_column_for_each_and_the_psnr_of_the_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hr, baseline, sr = noise(0), noise(1), noise(2)
    pictures = []
    inner = (slice(3, 13), slice(4, 14))
    original = model_table.comparison_figure
    monkeypatch.setattr(model_table, "comparison_figure", lambda columns, box: pictures.append(columns) or original(columns, box))
    crop_picture(tmp_path / "new" / "crop.png", "baby", hr, [("bicubic", baseline), ("IMDN", sr), ("ideal", hr)], (4, 3, 14, 13))
    ((*others, last),) = pictures
    assert last[0] == "baby, HR"
    expected = [psnr(image[inner], hr[inner], 0) for image in (baseline, sr)]
    assert [title for title, _ in others] == [f"bicubic, {expected[0]:.2f} dB", f"IMDN, {expected[1]:.2f} dB", "ideal, equal"]
    assert cv2.imread(str(tmp_path / "new" / "crop.png")) is not None
