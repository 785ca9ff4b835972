"""What an option file inherits from its bases, and what ``--force_yml`` makes of it."""

from __future__ import annotations

import logging
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from sr_nas.errors import UserError
from sr_nas.options.load import load_options, merge
from sr_nas.options.sections import SearchOptions, TrainOptions
from tests.conftest import REPOSITORY

SAC, TRAIN = REPOSITORY / "options" / "sac_imdn.yml", REPOSITORY / "options" / "train_imdn.yml"


def trained(*overrides: str, file: Path = TRAIN) -> TrainOptions:
    return load_options(TrainOptions, file, overrides, check_files=False)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (({"type": "a", "p": 1, "q": 2}, {"p": 3}), {"type": "a", "p": 3, "q": 2}),
        (({"type": "a", "p": 1, "q": 2}, {"type": "a", "q": 3}), {"type": "a", "p": 1, "q": 3}),
        (({"type": "a", "p": 1, "q": 2}, {"type": "b"}), {"type": "b"}),
        (({"type": "a", "p": 1}, {"type": "b", "q": 3}, {"p": 4}), {"type": "b", "q": 3, "p": 4}),
        (({"type": "a", "p": 1}, {"type": "b"}, {"type": "a"}), {"type": "a"}),
        (({"type": "a", "p": 1}, "b"), {"type": "b"}),
        (({"type": "a", "p": 1}, "a"), {"type": "a", "p": 1}),
        (("a", {"p": 2}), {"type": "a", "p": 2}),
        (("a", {"type": "b", "p": 2}), {"type": "b", "p": 2}),
        (("a", "b"), "b"),
        (({"type": "a", "inner": {"p": 1}}, {"inner": {"q": 3}}), {"type": "a", "inner": {"p": 1, "q": 3}}),
        (({"p": 1}, {"type": "b"}), {"type": "b", "p": 1}),
        (({"genotype": "experiments/a"}, {"genotype": {"conv1": "conv_3x3"}}), {"genotype": {"conv1": "conv_3x3"}}),
        (({"p": [1, 2]}, {"p": [3]}), {"p": [3]}),
    ],
)
def test_a_section_over_another(parts: tuple[Any, ...], expected: Any) -> None:
    result: Any = {}
    for part in parts:
        result = merge(result, {"x": part})
    assert result["x"] == expected


def test_merging_changes_neither_side() -> None:
    under, over = {"a": {"type": "x", "p": [1]}}, {"a": {"q": 2}}
    assert merge(under, over) == {"a": {"type": "x", "p": [1], "q": 2}}
    assert merge(under, {"a": "y"}) == {"a": {"type": "y"}}
    assert (under, over) == ({"a": {"type": "x", "p": [1]}}, {"a": {"q": 2}})


@pytest.mark.parametrize(
    "overrides",
    list(permutations(("datasets:train:type=folder", "datasets:train:dataroot_gt=[a, b]", "datasets:train:gt_size=64"))),
)
def test_another_type_replaces_the_section_whatever_the_order_of_overrides(
    overrides: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    data = trained(*overrides).datasets.train
    assert (data.type, data.gt_size, data.batch_size_per_gpu) == ("folder", 64, 16)
    assert data.arguments() == {"dataroot_gt": ["a", "b"], "dataroot_lq": None, "filename_tmpl": "{}", "cache": False}
    (message,) = caplog.messages
    assert message.startswith("--force_yml: datasets.train is folder instead of sample, and inherits none of name: ")
    assert message.endswith(", batch_size_per_gpu: 8")


@pytest.mark.parametrize("override", ["train:optim_g:type=SGD", "train:optim_g=SGD", "train:optim_g={type: SGD}"])
def test_the_spellings_of_another_type(override: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        optimizer = trained(override).train.optim_g
    defaults = {"lr": 0.025, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    assert (optimizer.type, optimizer.arguments()) == ("SGD", defaults)
    (message,) = caplog.messages
    assert message == "--force_yml: train.optim_g is SGD instead of Adam, and inherits none of lr: 0.002, betas: [0.9, 0.99]"
    assert trained("train:optim_g:lr=1e-4", override).train.optim_g.arguments()["lr"] == 1e-4


def test_a_file_that_inherits_follows_the_same_rule(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(
        f"_base_: {TRAIN}\n"
        "train: {pixel_opt: {type: L1HFENLoss}, scheduler: {type: MultiStepLR, milestones: [600]}}\n"
        "datasets: {train: {type: folder, dataroot_gt: a}}\n"
    )
    options = trained(file=file)
    assert options.train.pixel_opt.arguments() == {"loss_weight": 1.0, "hfen_weight": 0.2, "kernel_size": 15, "sigma": 1.5}
    assert options.train.scheduler.arguments() == {"milestones": [600], "gamma": 0.5}
    assert (options.datasets.train.type, options.datasets.train.gt_size) == ("folder", 96)
    assert options.train.optim_g.arguments()["lr"] == 2e-3


def test_what_an_anchor_puts_in_two_places_is_overridden_in_one(tmp_path: Path) -> None:
    file = tmp_path / "anchored.yml"
    file.write_text(f"_base_: {SAC}\ntrain: {{optim_g: &adam {{type: Adam, lr: 1e-3}}}}\nsearch: {{alpha: {{optim: *adam}}}}\n")
    options = load_options(SearchOptions, file, ["train:optim_g:lr=5e-4"])
    assert options.train.optim_g.arguments()["lr"] == 5e-4
    assert options.search.alpha.optim.arguments()["lr"] == 1e-3


@pytest.mark.parametrize("value", ["3", "[SGD]", "null", "true"])
def test_what_is_no_section_is_refused_by_its_path(value: str) -> None:
    with pytest.raises(UserError, match=r"  train\.optim_g: a mapping with the key 'type' is expected\. Allowed types: "):
        trained(f"train:optim_g={value}")


def test_a_key_of_neither_type_is_still_unknown() -> None:
    allowed = "type, lr, weight_decay, betas"
    belongs = rf"train\.optim_g\.nesterov: unknown key for type Adam; it belongs to type SGD\. Allowed: {allowed}\."
    with pytest.raises(UserError, match=belongs):
        trained("train:optim_g:nesterov=true")
    with pytest.raises(UserError, match=r"train\.optim_g\.betas: unknown key for type SGD; it belongs to type Adam.* and "):
        trained("train:optim_g:type=SGD", "train:optim_g:betas=[0.5, 0.9]")
    with pytest.raises(UserError, match=r"train\.optim_g: unknown optimizer 'SDG' - did you mean 'SGD'\?"):
        trained("train:optim_g:type=SDG")
