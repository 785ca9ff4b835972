"""Pairs of images: sizes that fit, names that match, and what is said when they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sr_nas.data.layouts import by_stem, check_template, match_names, naming_rules
from sr_nas.data.sources import Pairs
from sr_nas.errors import UserError
from sr_nas.images.resize import downscale


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_hr_is_cropped_to_a_multiple_of_the_scale_and_lr_made_of_it() -> None:
    image = noise(33, 26)
    pairs = Pairs(["a"], 4, lambda index: image)
    np.testing.assert_array_equal(pairs.hr(0), image[:32, :24])
    np.testing.assert_array_equal(pairs.lr(0), downscale(image[:32, :24], 4))


@pytest.mark.parametrize("hr_first", [True, False])
def test_lr_of_another_size_names_both_files_and_sizes(hr_first: bool) -> None:
    pairs = Pairs(["a"], 2, lambda index: noise(33, 40), lambda index: noise(16, 21), [("hr/a.png", "lr/ax2.png")])
    if hr_first:
        pairs.hr(0)
    with pytest.raises(UserError) as error:
        pairs.lr(0)
    for part in ("lr/ax2.png has 21x16 pixels", "hr/a.png has 40x32 pixels", "must have 20x16 pixels"):
        assert part in str(error.value)


def test_hr_is_not_decoded_again_for_its_size() -> None:
    read: list[int] = []

    def read_hr(index: int) -> np.ndarray:
        read.append(index)
        return noise(8, 8)

    pairs = Pairs(["a"], 2, read_hr, lambda index: noise(4, 4))
    pairs.hr(0)
    pairs.lr(0)
    pairs.lr(0)
    assert read == [0]


def test_hr_smaller_than_the_scale_is_named() -> None:
    with pytest.raises(UserError, match=r"^thumb has 9x3 pixels: too small for scale 4"):
        Pairs(["thumb"], 4, lambda index: noise(3, 9)).hr(0)


@pytest.mark.parametrize(
    ("lr", "template"),
    [(["b", "a"], "{}"), (["bx2", "ax2"], "{}"), (["lr_b_2", "lr_a_2"], "lr_{}_2")],
)
def test_names_pair_in_the_order_of_hr(lr: list[str], template: str) -> None:
    assert match_names(["a", "b"], lr, naming_rules(template, 2), "HR", "LR") == [lr[1], lr[0]]


def test_a_name_that_ends_like_the_suffix_is_still_itself() -> None:
    assert match_names(["a", "ax2"], ["a", "ax2"], naming_rules("{}", 2), "HR", "LR") == ["a", "ax2"]


def test_a_given_template_is_the_only_rule() -> None:
    with pytest.raises(UserError, match=r"tried, \{\} being the name of HR: '\{\}_lr';"):
        match_names(["a"], ["a"], naming_rules("{}_lr", 2), "HR", "LR")


def test_the_report_counts_names_and_says_what_was_tried() -> None:
    hr = [f"{number:02}" for number in range(15)]
    lr = ["00x3", "01x3", "extra"]
    with pytest.raises(UserError) as error:
        match_names(hr, lr, naming_rules("{}", 3), "set/HR", "set/LR")
    report = str(error.value).splitlines()
    assert report[1:4] == [
        "  HR: 15 images in set/HR",
        "  LR: 3 images in set/LR",
        "  HR without LR: 13 (02, 03, 04, 05, 06, 07, 08, 09, 10, 11 ... and 3 more)",
    ]
    assert report[4] == "  LR without HR: 1 (extra)"
    assert "'{}', '{}x3'; counted by '{}x3'" in report[5]
    assert report[6] == "Check that both are of the same set and scale."


def test_lr_without_hr_is_reported_even_where_every_hr_has_its_lr() -> None:
    with pytest.raises(UserError, match=r"HR without LR: 0\n  LR without HR: 1 \(b\)\n"):
        match_names(["a"], ["a", "b"], naming_rules("{}", 2), "HR", "LR")


def test_lr_of_another_scale_does_not_pair() -> None:
    with pytest.raises(UserError, match=r"LR without HR: 1 \(ax2\)"):
        match_names(["a"], ["ax2"], naming_rules("{}", 4), "HR", "LR")


def test_two_files_of_one_name_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        by_stem([tmp_path / "a.jpg", tmp_path / "a.png"])


@pytest.mark.parametrize("template", ["", "lr", "{}{}", "{0}", "{name}", "{}{"])
def test_templates_that_name_nothing_are_rejected(template: str) -> None:
    with pytest.raises(ValueError, match="once"):
        check_template(template)
