"""The settings of section 6.2 of SA-DARTS in one table, and every search of a row, figure or section of the paper held to it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from sr_nas.options.load import load_options
from sr_nas.task import search_options, training_options
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "options"

ADAM = "search.alpha.optim"
SGD = {"type": "SGD", "momentum": 0.9, "weight_decay": 3e-4}
# Folder -> what its searches share. In brackets: not of section 6.2, but of the public code that it refers to.
SECTION_6_2: dict[str, dict[str, Any]] = {
    "nasbench201": {
        "datasets.train.type": "cifar10",
        "datasets.train.batch_size_per_gpu": 64,
        "datasets.train.cutout": 16,  # (16: DARTS)
        "search.split": 0.5,
        "search.epochs": 50,
        "search.warmup_epochs": 0,
        "search.order": "first",
        "search.alpha.init": "normal",
        "search.alpha.value": 1e-3,
        "search.alpha.offset": {},
        f"{ADAM}.type": "Adam",
        f"{ADAM}.lr": 3e-4,
        f"{ADAM}.weight_decay": 1e-3,
        f"{ADAM}.betas": [0.5, 0.999],  # (DARTS)
        "search.relaxation.type": "softmax",
        "train.optim_g.lr": 0.025,
        **{f"train.optim_g.{key}": value for key, value in SGD.items()},
        "train.scheduler.type": "CosineAnnealingLR",
        "train.scheduler.eta_min": 1e-3,  # (DARTS)
        "train.grad_clip_norm": 5.0,
        "network_g.channels": 16,
        "network_g.partial_channel": 1,
    },
    "paper": {
        "scale": 2,
        "datasets.train.name": "DIV2K",
        "datasets.train.batch_size_per_gpu": 64,  # (DLSR, as all in brackets below)
        "datasets.train.gt_size": 64,  # (DLSR)
        "search.split": 0.75,  # (DLSR: 600 and 200 images)
        "search.steps_per_epoch": 1000,  # (DLSR)
        "search.warmup_epochs": 0,
        "search.order": "first",
        "search.alpha.init": "normal",
        "search.alpha.value": 1e-3,
        f"{ADAM}.type": "Adam",
        f"{ADAM}.lr": 3e-4,
        f"{ADAM}.weight_decay": 1e-8,
        f"{ADAM}.betas": [0.5, 0.999],  # (DLSR)
        "train.optim_g.type": "Adam",
        "train.optim_g.lr": 5e-4,
        "train.optim_g.weight_decay": 1e-8,
        "train.scheduler.type": "MultiStepLR",  # (DLSR)
        "train.scheduler.gamma": 0.5,  # (DLSR)
        "network_g.partial_channel": 1,
    },
}
SECTION_6_2["darts"] = SECTION_6_2["nasbench201"] | {
    "datasets.train.batch_size_per_gpu": 256,
    f"{ADAM}.lr": 6e-4,
    "train.optim_g.lr": 0.1,
    "train.scheduler.eta_min": 0,  # (PC-DARTS)
    "network_g.num_cells": 8,
    "network_g.nodes": 4,
}

# What a file of a method has otherwise, and where the paper says so.
NO_DECAY = {f"{ADAM}.weight_decay": 0}  # 6.2, of SA; L2 is in the loss, figure 2
PARTIAL = {"network_g.partial_channel": 4}  # 6.10
WARM_UP = {"search.warmup_epochs": 15}  # 6.2
SKIP_START = WARM_UP | {"search.alpha.init": "constant", "search.alpha.value": 0, "search.alpha.offset": {"skip_connect": 0.1}}


def term(kind: str, slope: float, **own: float) -> dict[str, Any]:
    """A regulariser with lambda_e = slope * epoch."""
    options = {"type": kind, "schedule": {"type": "linear", "slope": slope, "warmup_epochs": 0}} | own
    return {f"search.regularizer.{key}": value for key, value in options.items()}


BETA = term("beta", 0.5)  # Beta-DARTS' code
SA = term("sa", 0.2, nu=1, mu=0) | NO_DECAY  # eq. 8 and below
EQ7 = term("sa", 0.5, nu=0.25, mu=1e6) | NO_DECAY  # 6.6
GELU = term("sa", 0.2, nu=0, mu=2**-0.5) | NO_DECAY  # 6.5, table 5
L2 = {"search.regularizer.type": "l2"} | NO_DECAY
GUMBEL = {"search.relaxation.type": "gumbel_softmax"}
METHODS: dict[str, dict[str, Any]] = {
    "darts": {"search.regularizer.type": "none", "search.alpha.scheduler": None},
    "darts2": {"search.order": "second"},
    "l2": L2,
    "beta": BETA,
    "pc": PARTIAL | WARM_UP,
    "pc_beta": PARTIAL | BETA,
    "sa": SA,
    "sa_eq7": EQ7,
    "sa_gelu": GELU,
    "sac": SA | PARTIAL,
    "sac_eq7": EQ7 | PARTIAL,
    "sac_gelu": GELU | PARTIAL,
    "snas": GUMBEL,
    "snas_sa": GUMBEL | SA,
    "skip_start": SKIP_START,
    "sa_skip_start": SKIP_START | SA,
    "negative_start": {"search.alpha.init": "constant", "search.alpha.value": -5e-4},  # 6.9
}
CITED = ("darts_minus", "sdarts_rs", "sdarts_adv", "r_darts_dp")  # tables 2 and 4; others of them have their own code's settings
METHODS |= dict.fromkeys(CITED, METHODS["darts"]) | {f"sa_{name}": SA for name in CITED}
CIFAR100 = {"datasets.train.type": "cifar100"}
# PC-DARTS' public code; K is of 6.10.
IMAGENET = {
    "datasets.train.type": "image_folder",
    "datasets.train.batch_size_per_gpu": 128,
    "datasets.train.cutout": 0,
    "search.split": 0.8,
    "search.warmup_epochs": 35,
    f"{ADAM}.lr": 6e-3,
    "train.optim_g.lr": 0.5,
    "network_g.partial_channel": 2,
}
SPACES = {f"s{number}": METHODS["darts"] for number in range(1, 5)} | {f"sa_s{number}": SA for number in range(1, 5)}
FILES: dict[str, dict[str, dict[str, Any]]] = {
    "nasbench201": METHODS
    | {
        "sa_nu075": term("sa", 0.5, nu=0.75, mu=1e6) | NO_DECAY,  # 6.3
        "sa_mu0": term("sa", 0.5, nu=0.25, mu=0) | NO_DECAY,  # 6.5
        "temperature": {"search.relaxation.temperature": 5},  # 6.8
        "beta_temperature": BETA | {"search.relaxation.temperature": 5},
        "l2_skip_start": SKIP_START | L2,
        "beta_skip_start": SKIP_START | BETA,
        "sac_skip_start": SKIP_START | SA | PARTIAL,
    },
    "darts": METHODS
    | SPACES
    | {"three_ops": METHODS["darts"], "sa_three_ops": SA}
    | {f"{name}_cifar100": METHODS[name] | CIFAR100 for name in ("darts", "beta", "pc", "pc_beta", "sa", "sac")}
    | {f"{name}_imagenet": METHODS[name] | IMAGENET for name in ("pc", "sac")},
    "paper": {
        "dlsr": {"search.warmup_epochs": 20, "search.alpha_loss": "train+val"},  # DLSR
        "darts_imdn": {"search.warmup_epochs": 20},
        "beta_dlsr": BETA,
        "beta_imdn": BETA,
        "beta_imdn_flops": BETA,
    }
    | {
        f"{method}_{name}": terms | ({"network_g.partial_channel": 4} if method == "sac" else {})
        for method in ("sa", "sac")
        for name, terms in {
            "dlsr": term("sa", 0.2, nu=1, mu=0),
            "imdn": term("sa", 0.2, nu=1, mu=0),
            "eq7_dlsr": term("sa", 0.2, nu=0.25, mu=1e6),
            "gelu_dlsr": term("sa", 0.2, nu=0, mu=2**-0.5),
        }.items()
    }
    | {"sac_imdn_flops": term("sa", 0.2, nu=1, mu=0) | PARTIAL},
}
TRAININGS: dict[str, dict[str, Any]] = {
    "darts/train_cifar10": {"network_g.num_cells": 20, "network_g.channels": 36, "network_g.auxiliary": True},
    "darts/train_cifar100": {"network_g.num_cells": 20, "network_g.channels": 36, "datasets.train.type": "cifar100"},
    # Section 4.2: as PC-DARTS, whose public code has the rest.
    "darts/train_imagenet": {
        "train.optim_g.lr": 0.5,
        "train.optim_g.weight_decay": 3e-5,
        "train.scheduler": {"type": "LinearDecayLR", "period": 1252, "tail": 5},
        "train.warmup_iter": 5 * 1252,
        "train.total_iter": 250 * 1252,
        "datasets.train.batch_size_per_gpu": 1024 // 8,
        "train.accumulate": 8,
        "train.class_opt.label_smoothing": 0.1,
        "network_g.channels": 48,
        "network_g.num_cells": 14,
    },
}


@cache
def dumped(file: str) -> dict[str, Any]:
    model = training_options if "train" in file else search_options
    return load_options(model, FOLDER / f"{file}.yml", check_files=False).model_dump(mode="json")


def differing(file: str, expected: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of the file, for all keys that have another value there than expected."""

    def value(path: str) -> Any:
        options: Any = dumped(file)
        for key in path.split("."):
            options = options[key]
        return options

    return {path: value(path) for path, wanted in expected.items() if value(path) != wanted}


@pytest.mark.parametrize("file", [f"{folder}/{name}" for folder, files in FILES.items() for name in files])
def test_a_search_has_the_settings_of_the_paper(file: str) -> None:
    folder, name = file.split("/")
    assert differing(file, SECTION_6_2[folder] | FILES[folder][name]) == {}


@pytest.mark.parametrize("file", TRAININGS)
def test_a_training_has_the_settings_of_the_paper(file: str) -> None:
    assert differing(file, TRAININGS[file]) == {}


# P-DARTS' public code, and of its paper the cells, operations, first probabilities and skip connections.
PDARTS: dict[str, Any] = {
    "datasets.train.batch_size_per_gpu": 96,
    "datasets.train.cutout": 0,
    "train.optim_g.lr": 0.025,
    "search.epochs": 25,
    "search.warmup_epochs": 10,
}
STAGES: tuple[tuple[int, int | None, float | None], ...] = ((5, None, None), (11, 5, 0.4), (17, 3, 0.7))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize(("method", "terms"), [("", METHODS["darts"]), ("sa_", SA)])
def test_a_stage_of_p_darts_has_the_settings_of_its_public_code(method: str, terms: dict[str, Any], stage: int) -> None:
    cells, operations, probability = STAGES[stage - 1]
    expected = SECTION_6_2["darts"] | terms | PDARTS | {"network_g.num_cells": cells, "name": f"{method}pdarts_{stage}_darts"}
    if operations:
        expected["search.candidates_from"] = {"run": f"experiments/{method}pdarts_{stage - 1}_darts", "operations": operations}
        schedule = {"type": "decay", "first": probability, "rate": 0.2, "warmup_epochs": 10}
        expected["search.over_epochs.skip_dropout"] = schedule
    last = {"type": "limited_skips", "skips": 2, "cells": "normal"} if stage == 3 else {"type": "argmax"}
    assert differing(f"darts/{method}pdarts_{stage}", expected | {"search.selection": last}) == {}


def test_another_value_is_noticed() -> None:
    assert differing("darts/sa", SECTION_6_2["darts"] | METHODS["darts"]) == {
        f"{ADAM}.weight_decay": 0,
        "search.regularizer.type": "sa",
    }
