"""Searches beside chance by the table: band, regret and shares by brute force, and the figure's hand-made networks."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sr_nas.analysis.methods import find, finds_of, published_by_width, summary
from sr_nas.errors import UserError
from sr_nas.genotype import genotype_from
from sr_nas.networks.imdn import IMDN, IMDN_OPERATIONS, LABELS, PUBLISHED
from sr_nas.networks.imdn_table import SETTINGS, read_trainings, table

EVERY = list(product(IMDN_OPERATIONS, repeat=len(LABELS)))
NAMES = ("conv_3x3_bn", "dsconv_3x3", "dsconv_5x5_bn", "dsconv_3x3")


def method(*genotypes: tuple[str, ...], **size: Any) -> Any:
    network = SimpleNamespace(type="IMDN", **{"nf": 16, "num_blocks": 3} | size)
    options = SimpleNamespace(scale=2, network_g=network, search=SimpleNamespace(budget=SimpleNamespace(macs_hr=None)))
    history = [
        [{"genotype": genotype_from(list(names), "IMDN", IMDN.choices()).to_json(), "seconds": 2.0}] * 3 for names in genotypes
    ]
    runs = [SimpleNamespace(folder=f"run{place}", options=options, history=each) for place, each in enumerate(history)]
    return SimpleNamespace(name="m", runs=runs)


def test_a_find_is_compared_with_all_networks_of_its_cost() -> None:
    columns, row = table(), EVERY.index(NAMES)
    own, dear = (find(genotype_from(list(NAMES), "IMDN", IMDN.choices()), budget) for budget in (None, 1e12))
    macs = columns["macs_hr"].tolist()
    band = [place for place in range(len(EVERY)) if 0.95 * macs[row] <= macs[place] <= 1.05 * macs[row]]
    cheaper = [place for place in range(len(EVERY)) if macs[place] <= macs[row]]
    for number in range(3):
        guess = columns["predicted"][:, number].tolist()
        assert own.psnr[number] == columns["psnr"][row, number] and own.macs == macs[row]
        assert own.chance[number] == pytest.approx(np.mean([guess[place] for place in band]), abs=1e-5)
        assert own.worse[number] == pytest.approx(np.mean([guess[place] < guess[row] for place in band]))
        assert own.regret[number] == pytest.approx(max(guess[place] for place in cheaper) - own.psnr[number], abs=1e-5)
        assert dear.regret[number] == pytest.approx(max(guess) - own.psnr[number], abs=1e-5)


def test_a_method_is_the_mean_over_its_searches() -> None:
    both = method(NAMES, PUBLISHED)
    finds = finds_of(both)
    told = summary(both, finds, 1)
    gains = [each.psnr[1] - each.chance[1] for each in finds]
    assert told["minus_chance_mean"] == pytest.approx(np.mean(gains)) and told["minus_chance_sd"] == pytest.approx(
        np.std(gains, ddof=1)
    )
    assert told["psnr"] == pytest.approx(np.mean([each.psnr[1] for each in finds])) and told["seconds"] == 6
    assert finds[1].trained >= 1 and told["trained"] == sum(each.trained > 0 for each in finds)


def test_searches_of_other_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"run0: the table has networks of IMDN at .*'nf': 16.* and this is .*'nf': 32"):
        finds_of(method(NAMES, nf=32))


@pytest.mark.long
def test_the_published_network_by_width_has_its_trainings() -> None:
    known = published_by_width("Set14")
    rows = [row for row in read_trainings() if all(row[label] == "conv_3x3" for label in LABELS) and row["iterations"] == "2000"]
    assert sorted(value for values in known.values() for value in values) == sorted(float(row["Set14_psnr"]) for row in rows)
    assert len(known) == len({row["nf"] for row in rows}) and list(known) == sorted(known)
    ours = table()["macs_hr"][EVERY.index(PUBLISHED)]
    assert set(known[ours]) == {float(row["Set14_psnr"]) for row in rows if int(row["nf"]) == SETTINGS["nf"]}
