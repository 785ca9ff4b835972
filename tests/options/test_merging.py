"""What a component that changes its type inherits, from files and from overrides alike."""

from __future__ import annotations

import logging
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from sr_nas.options.search import SearchOptions
from sr_nas.options.strict import Retyped, merge, settle
from sr_nas.options.train import TrainOptions
from tests.conftest import REPOSITORY

SAC, TRAIN = REPOSITORY / "options" / "sac_imdn.yml", REPOSITORY / "options" / "train_imdn.yml"


def searched(*overrides: str) -> SearchOptions:
    return load_options(SearchOptions, SAC, overrides)


def trained(*overrides: str, file: Path = TRAIN) -> TrainOptions:
    return load_options(TrainOptions, file, overrides, check_files=False)


def layers(*parts: Any) -> Any:
    result: Any = {}
    for part in parts:
        result = merge(result, {"x": part})
    return settle(result["x"], {"type", "size", "inner"})


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (({"type": "a", "size": 1, "own": 2}, {"size": 3}), {"type": "a", "size": 3, "own": 2}),
        (({"type": "a", "size": 1, "own": 2}, {"type": "a", "own": 3}), {"type": "a", "size": 1, "own": 3}),
        (({"type": "a", "size": 1, "own": 2}, {"type": "b"}), {"type": "b", "size": 1}),
        (({"type": "a", "size": 1, "own": 2}, {"type": "b", "own": 3}), {"type": "b", "size": 1, "own": 3}),
        (({"type": "a", "size": 1, "own": 2}, {"type": "b"}, {"own": 3}), {"type": "b", "size": 1, "own": 3}),
        (({"type": "a", "size": 1, "own": 2}, {"type": "b", "other": 4}, {"type": "c"}), {"type": "c", "size": 1}),
        (({"type": "a", "own": 2}, {"type": "b", "size": 1}, {"type": "a"}), {"type": "a", "size": 1}),
        (({"type": "a", "size": 1, "own": 2}, "b"), {"type": "b", "size": 1}),
        (({"type": "a", "size": 1, "own": 2}, "a"), {"type": "a", "size": 1, "own": 2}),
        (("a", {"own": 2}), {"type": "a", "own": 2}),
        (("a", {"type": "b", "own": 2}), {"type": "b", "own": 2}),
        (("a", "b"), {"type": "b"}),
        (({"type": "a", "inner": {"p": 1, "q": 2}}, {"type": "b", "inner": {"p": 3}}), {"type": "b", "inner": {"p": 3, "q": 2}}),
        (({"size": 1}, {"type": "b"}), {"type": "b", "size": 1}),
    ],
)
def test_a_section_over_another(parts: tuple[Any, ...], expected: dict[str, Any]) -> None:
    assert layers(*parts) == expected


def test_merging_changes_neither_side() -> None:
    under, over = {"a": {"type": "x", "p": [1]}}, {"a": {"q": 2}}
    assert merge(under, over) == {"a": {"type": "x", "p": [1], "q": 2}}
    assert merge(under, {"a": "y"}) == {"a": {"type": "y"}}
    assert (under, over) == ({"a": {"type": "x", "p": [1]}}, {"a": {"q": 2}})


def test_a_mapping_over_a_name_is_still_that_mapping_where_no_type_is_meant() -> None:
    merged = merge({"genotype": "experiments/a"}, {"genotype": {"conv1": "conv_3x3"}})
    assert isinstance(merged["genotype"], Retyped)
    assert merged["genotype"] == {"conv1": "conv_3x3"}


@pytest.mark.parametrize(
    "overrides",
    list(permutations(("datasets:train:type=folder", "datasets:train:dataroot_gt=[a, b]", "datasets:train:use_rot=false"))),
)
def test_another_data_set_keeps_how_patches_are_drawn_whatever_the_order(overrides: tuple[str, ...]) -> None:
    """The command of docs/results.md: patches of 64 in batches of 8 are train_imdn.yml's."""
    data = trained(*overrides).datasets.train
    assert (data.type, data.gt_size, data.batch_size_per_gpu, data.use_rot) == ("folder", 64, 8, False)
    assert data.arguments() == {"dataroot_gt": ["a", "b"], "dataroot_lq": None, "filename_tmpl": "{}", "cache": False}


def test_the_own_keys_of_the_old_type_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    val = trained("datasets:val:type=folder", "datasets:val:dataroot_gt=a").datasets.val
    assert val is not None
    assert "held_out" not in val.arguments()
    assert not caplog.records, "folder knows no held_out, so that nobody misses it"


@pytest.mark.parametrize("override", ["train:optim_g:type=SGD", "train:optim_g=SGD", "train:optim_g={type: SGD}"])
def test_a_key_that_both_types_have_is_not_inherited_and_that_is_told(override: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        optimizer = trained(override).train.optim_g
    defaults = {"lr": 0.025, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    assert (optimizer.type, optimizer.arguments()) == ("SGD", defaults)
    assert caplog.messages == ["optim_g is SGD instead of Adam, whose lr: 0.002 it does not inherit: name it again to keep it"]


def test_nothing_is_told_of_a_key_that_is_named_again(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = trained("train:optim_g:lr=1e-4", "train:optim_g:type=SGD").train.optim_g
    assert optimizer.arguments()["lr"] == 1e-4
    assert not caplog.records


@pytest.mark.parametrize("override", ["search:regularizer:type=beta", "search:regularizer=beta"])
def test_another_regularizer_keeps_the_schedule(override: str) -> None:
    regularizer = searched(override).search.regularizer
    assert "nu" not in regularizer.arguments()
    assert (regularizer.type, regularizer.schedule.type, regularizer.schedule.arguments()["slope"]) == ("beta", "linear", 0.2)
    flat = searched(override, "search:regularizer:schedule:type=constant").search.regularizer.schedule
    assert (flat.type, "slope" in flat.arguments()) == ("constant", False)


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
    assert (options.datasets.train.type, options.datasets.train.gt_size) == ("folder", 64)
    assert options.train.optim_g.arguments()["lr"] == 2e-3
    back = trained("datasets:train:type=sample", file=file).datasets.train
    assert (back.arguments(), back.gt_size) == ({"held_out": False}, 64)


def test_what_an_anchor_puts_in_two_places_is_overridden_in_one(tmp_path: Path) -> None:
    file = tmp_path / "anchored.yml"
    file.write_text(f"_base_: {SAC}\ntrain: {{optim_g: &adam {{type: Adam, lr: 1e-3}}}}\nsearch: {{alpha: {{optim: *adam}}}}\n")
    options = load_options(SearchOptions, file, ["train:optim_g:lr=5e-4"])
    assert options.train.optim_g.arguments()["lr"] == 5e-4
    assert options.search.alpha.optim.arguments()["lr"] == 1e-3


@pytest.mark.parametrize("value", ["3", "[SGD]", "null", "true"])
def test_what_is_no_section_is_refused_by_its_path(value: str) -> None:
    with pytest.raises(UserError) as caught:
        trained(f"train:optim_g={value}")
    assert "  train.optim_g: a mapping with the key 'type' is expected. Allowed types: Adam, AdamW, SGD." in str(caught.value)


def test_a_key_of_neither_type_is_still_unknown() -> None:
    allowed = "type, lr, weight_decay, momentum, nesterov"
    with pytest.raises(UserError, match=rf"train\.optim_g\.betas: unknown key\. Allowed: {allowed}\."):
        trained("train:optim_g:type=SGD", "train:optim_g:betas=[0.5, 0.9]")
    with pytest.raises(UserError, match=r"train\.optim_g: unknown optimizer 'SDG' - did you mean 'SGD'\?"):
        trained("train:optim_g:type=SDG")
