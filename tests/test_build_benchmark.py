"""The tool that builds the table of trained networks: which are trained, that none is trained twice, and what is predicted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import build_benchmark
import cv2
import numpy as np
import pytest
from build_benchmark import (
    COLUMNS,
    CSV,
    DRAWS,
    EVERY,
    LAST,
    LONG,
    REPEATED,
    SHORT,
    URBAN,
    WIDTHS,
    Training,
    main,
    of_searches,
    trainings,
)

from sr_nas.errors import UserError
from sr_nas.genotype import genotype_from
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN, IMDN_OPERATIONS, LABELS, PUBLISHED
from sr_nas.networks.imdn_table import DATA_SETS, FILE, place, read_trainings


def test_the_plan_holds_corners_draws_repeats_and_other_lengths_once_each() -> None:
    plan = trainings()
    assert len(plan) == len(set(plan)) and plan[0] == Training(PUBLISHED, urban=True)
    once = {item.genotype for item in plan if (item.seed, item.times, item.nf) == (0, 1, 16)}
    assert {(name,) * 4 for name in IMDN_OPERATIONS} <= once and len(once) >= DRAWS
    for times, count in (LONG[::-1], SHORT[::-1]):
        other = [item for item in plan if item.times == times]
        assert len(other) == count and {item.genotype for item in other} <= once
    seeds = [item for item in plan if item.seed and item.nf == 16]
    assert len(seeds) == 2 * (REPEATED + 1) and all(
        {(genotype, 1), (genotype, 2)} <= {item[:2] for item in seeds} for genotype, *_ in seeds
    )
    wide = {(item.nf, item.seed) for item in plan if item.nf != 16 and item.genotype == PUBLISHED and item.urban}
    assert wide == {(nf, seed) for nf in WIDTHS for seed in (0, 1, 2)} and len({item.nf for item in plan}) == 1 + len(WIDTHS)
    assert [item.urban for item in plan[-LAST:]] == [True] * LAST and sum(item.urban for item in plan) == LAST + len(wide) + 3


def test_the_shipped_trainings_are_of_the_plan() -> None:
    usual = max((row["iterations"] for row in read_trainings()), key=[row["iterations"] for row in read_trainings()].count)
    plan = {(*item.key, round(int(usual) * item.times)) for item in trainings()}
    rows = [(*(row[name] for name in (*LABELS, "nf", "seed")), int(row["iterations"])) for row in read_trainings(CSV)]
    # Networks that searches have found are the others.
    assert len(rows) == len(set(rows)) and all(row[5] in "012" and row[6] == int(usual) for row in set(rows) - plan)


@pytest.mark.slow
def test_a_training_is_measured_and_none_is_repeated(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("T91", *DATA_SETS, URBAN):
        (tmp_path / name).mkdir()
        for number in range(2):
            picture = cv2.resize(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), picture)
    data = [f"datasets:train:dataroot_gt={tmp_path / 'T91'}"]
    data += [
        f"datasets:{key}:dataroot_gt={tmp_path / name}" for key, name in zip(("val", "val_2", "val_3"), DATA_SETS, strict=True)
    ]
    words = [
        "train",
        "--csv",
        str(tmp_path / "t.csv"),
        "--urban",
        str(tmp_path / URBAN),
        "--force_yml",
        "train:total_iter=20",
        "num_threads=1",
        *data,
    ]
    assert main([*words[:5], "--most", "1", *words[5:]]) == 0
    first = (tmp_path / "t.csv").read_text()
    assert main([*words[:5], "--most", "2", "--jobs", "2", *words[5:]]) == 0
    assert (tmp_path / "t.csv").read_text().startswith(first)
    rows = read_trainings(tmp_path / "t.csv")
    assert len(rows) == 3 and len({tuple(row[label] for label in LABELS) for row in rows}) == 3
    assert list(rows[0]) == [*COLUMNS] and rows[0]["iterations"] == "20" and 10 < float(rows[0]["Set5_psnr"]) < 60
    assert 10 < float(rows[0]["Urban100_psnr"]) < 60 and rows[1]["Urban100_psnr"] == ""
    # A network that a search has found is trained from three seeds.
    (tmp_path / "run").mkdir()
    content = genotype_from(list(PUBLISHED), "IMDN", IMDN.choices()).to_json()
    (tmp_path / "run" / "genotype.json").write_text(json.dumps(content))
    assert main([*words[:5], "--runs", str(tmp_path / "run"), *words[5:]]) == 0
    added = read_trainings(tmp_path / "t.csv")[3:]
    assert [(row["conv1"], row["seed"]) for row in added] == [(PUBLISHED[0], "1"), (PUBLISHED[0], "2")]


@pytest.mark.slow
def test_a_smooth_truth_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def truth(genotype: tuple[str, ...]) -> float:
        return 35 + sum(0.1 * ("5x5" in name) - 0.2 * ("bn" in name) - 0.15 * ("ds" in name) for name in genotype)

    rows: list[dict[str, Any]] = []
    for item in [item for item in trainings() if (item.seed, item.times) == (0, 1)][:120] + [
        item for item in trainings() if item.seed
    ]:
        row = dict(zip(LABELS, item.genotype, strict=True)) | {"nf": item.nf, "seed": item.seed}
        row |= {"iterations": 2000, "cpu_seconds": 1}
        scores = {f"{name}_psnr": truth(item.genotype) + 0.01 * item.seed for name in DATA_SETS}
        rows.append(row | scores | {f"{name}_ssim": 0.9 for name in DATA_SETS})
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    assert main(["fit", "--csv", str(tmp_path / "t.csv")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["cross_validation"][report["regression"]]["tau"]["Set5"] > 0.95
    assert report["sd_of_seeds"]["B100"] == pytest.approx(0.01)  # of 0, 0.01 and 0.02
    with np.load(tmp_path / FILE) as stored:
        for genotype in build_benchmark.random.Random(1).sample(EVERY, 50):
            assert stored["predicted"][place(genotype)] == pytest.approx(truth(genotype), abs=0.05)
        assert stored["psnr"][place(rows[0]["conv1"] for _ in LABELS)] == pytest.approx(
            truth(PUBLISHED) + 0.01, abs=1e-4
        )  # mean of three


def test_a_search_of_another_space_is_refused(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_text(json.dumps(DLSR(2, nf=8).genotype.to_json()))
    with pytest.raises(UserError, match="the table has networks of IMDN, and this is one of DLSR"):
        of_searches([tmp_path])
