"""What history records say."""

from __future__ import annotations

import numpy as np
import pytest

from sr_nas.errors import UserError
from sr_nas.report.plots import genotype_text, giga, macs, series, winners


def test_series_are_the_values_of_the_history(make_history, imdn_choices) -> None:
    history = make_history(imdn_choices, 5)
    beta = series(history, imdn_choices, "beta")
    assert list(beta) == list(imdn_choices)
    assert beta["conv3"].shape == (5, 12)
    np.testing.assert_array_equal(beta["conv3"][4], history[4]["beta"]["conv3"])


def test_no_epoch_is_an_error(imdn_choices) -> None:
    with pytest.raises(UserError, match="no epoch yet"):
        series([], imdn_choices, "beta")


def test_the_history_of_another_space_is_an_error(make_history, imdn_choices) -> None:
    history = make_history(imdn_choices, 2)
    with pytest.raises(UserError, match=r"epoch 1 .* no alpha for the choice 'cell1' \(it has conv1, conv2, conv3, conv4\)"):
        series(history, {"cell1": ["a", "b"]}, "alpha")
    history[1]["beta"]["conv2"] = [0.5, 0.5]
    with pytest.raises(UserError, match=r"epoch 2 .* 2 values of beta for 'conv2', which has 12 candidates"):
        series(history, imdn_choices, "beta")


def test_the_genotype_decides_who_won() -> None:
    record = {
        "beta": {"edge": [0.6, 0.3, 0.1], "inputs": [0.2, 0.5, 0.3], "gate": [0.1, 0.9]},
        "genotype": {"arch": "DLSR", "genotype": {"edge": "skip", "inputs": ["first", "third"]}},
    }
    assert winners(record, "edge", ["none", "skip", "conv"]) == ("skip",)
    assert winners(record, "inputs", ["first", "second", "third"]) == ("first", "third")
    assert winners(record, "gate", ["closed", "open"]) == ("open",)
    assert genotype_text(record) == "DLSR(skip, first+third)"


def test_macs_carry_their_convention() -> None:
    record = {"macs_lr_1280x720": 654.53e9, "macs_hr_1280x720": 40.908e9, "macs_32x32": 117_800_000, "params": 715176}
    assert macs(record) == {
        "MACs, LR input 1280x720": "654.5 G",
        "MACs, HR output 1280x720": "40.9 G",
        "MACs, input 32x32": "117.8 M",
    }


@pytest.mark.parametrize(("count", "text"), [(317_100_000_000, "317.1 G"), (1_000_000_000, "1.0 G"), (999_900_000, "999.9 M")])
def test_giga(count: int, text: str) -> None:
    assert giga(count) == text
