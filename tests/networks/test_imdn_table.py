"""The table of trained networks against its trainings, and the regret by brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sr_nas.complexity.costs import complexity
from sr_nas.networks.imdn import IMDN, IMDN_OPERATIONS, LABELS, PUBLISHED
from sr_nas.networks.imdn_table import DATA_SETS, SETTINGS, place, read_trainings, table, truth

EVERY = list(product(IMDN_OPERATIONS, repeat=len(LABELS)))


@pytest.mark.long
def test_rows_are_in_the_order_of_all_combinations_and_have_their_costs() -> None:
    columns, random = table(), np.random.default_rng(0)
    assert [place(names) for names in EVERY] == list(range(len(EVERY)))
    for row in random.integers(len(EVERY), size=5):
        counted = complexity(IMDN(**SETTINGS, genotype=EVERY[row]))
        assert (columns["macs_hr"][row], columns["params"][row]) == (counted["macs_hr_1280x720"], counted["params"])


def test_trained_networks_have_the_mean_of_their_trainings() -> None:
    columns, scores = table(), {}
    trainings = read_trainings()
    usual = max({row["iterations"] for row in trainings}, key=[row["iterations"] for row in trainings].count)
    for row in trainings:
        if (row["iterations"], row["nf"]) == (usual, "16"):
            values = [float(row[f"{name}_psnr"]) for name in DATA_SETS]
            scores.setdefault(place([row[label] for label in LABELS]), []).append(values)
    assert np.flatnonzero(columns["trained"]).tolist() == sorted(scores)
    for row, values in scores.items():
        assert columns["trained"][row] == len(values)
        assert columns["psnr"][row] == pytest.approx(np.mean(values, axis=0), abs=1e-5)
    others = columns["trained"] == 0
    assert (columns["psnr"][others] == columns["predicted"][others]).all()


def test_regret_is_that_of_the_best_network_of_at_most_the_cost() -> None:
    columns, settings = table(), SETTINGS | {"genotype": list(PUBLISHED)}
    known, row = truth(settings), place(PUBLISHED)
    assert known is not None and known["Set5"]["trained"] >= 1
    cheaper = columns["macs_hr"] <= columns["macs_hr"][row]
    for number, name in enumerate(DATA_SETS):
        best = columns["predicted"][cheaper, number].max()
        assert known[name]["regret"] == pytest.approx(best - known[name]["psnr"], abs=2e-3)
    assert truth(settings | {"nf": 32}) is None and truth(settings | {"scale": 3}) is None
