"""Rank correlations against scipy and brute force, and SynFlow against a derivative by differences."""

from __future__ import annotations

import copy
import math
from argparse import Namespace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from sr_nas.analysis.ranks import correlation, interval, main, synflow, trained_scores
from sr_nas.errors import UserError
from sr_nas.networks.imdn import IMDN
from sr_nas.networks.imdn_table import DATA_SETS, place, table
from sr_nas.runs.run_dir import OPTIONS
from tests.conftest import REPOSITORY


def test_correlation_over_all_pairs_is_kendall_s_and_over_some_as_counted() -> None:
    random = np.random.default_rng(0)
    x, y, cost = random.normal(size=(3, 40))
    every, near = np.ones((40, 40)), (np.abs(cost[:, None] - cost) < 0.3).astype(float)
    assert correlation(x, y, every) == pytest.approx(kendalltau(x, y).statistic)
    assert correlation(y, y, near) == 1 and correlation(-y, y, near) == -1
    pairs = [(i, j) for i, j in combinations(range(40), 2) if near[i, j]]
    signs = [math.copysign(1, (x[i] - x[j]) * (y[i] - y[j])) for i, j in pairs]
    assert correlation(x, y, near) == pytest.approx(sum(signs) / len(signs))
    # A network that is not known takes no part; one that counts twice makes pairs with the others twice, none with itself.
    x[3] = np.nan
    rest = np.delete(np.arange(40), 3)
    assert correlation(x, y, every) == pytest.approx(kendalltau(x[rest], y[rest]).statistic)
    counts = np.ones(40)
    counts[5], counts[7] = 2, 0
    signs = [
        counts[i] * counts[j] * np.array([math.copysign(1, (x[i] - x[j]) * (y[i] - y[j])), 1]) for i, j in combinations(rest, 2)
    ]
    agree, number = np.sum(signs, axis=0)
    assert correlation(x, y, every, counts) == pytest.approx(agree / number)


def test_the_interval_holds_the_correlation_and_narrows_with_more_networks() -> None:
    random = np.random.default_rng(1)
    widths = []
    for count in (30, 300):
        y = random.normal(size=count)
        tau, low, high = interval(y + random.normal(size=count), y, np.ones((count, count)))
        assert low < tau < high and low < 0.5 < high  # 2 / pi * arcsin(1 / sqrt(2)) of normal variables
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_synflow_is_the_slope_of_the_output_when_all_weights_grow() -> None:
    network = IMDN(2, 16, 1, ["conv_3x3", "dsconv_5x5_bn", "dil_dsconv_3x3", "conv_3x3_bn"])
    score, network = synflow(copy.deepcopy(network)), network.double().eval()

    def total(factor: float) -> float:
        scaled = copy.deepcopy(network)
        with torch.no_grad():
            for weight in scaled.parameters():
                weight.copy_(factor * weight.abs())
            return float(scaled(torch.ones(1, 3, 16, 16, dtype=torch.float64)).sum())

    assert math.exp(score) == pytest.approx((total(1 + 1e-5) - total(1 - 1e-5)) / 2e-5, rel=1e-6)


def test_the_truth_is_the_table_s_and_of_its_width_alone() -> None:
    columns = table()
    for number, name in enumerate(DATA_SETS):
        usual = {place(names): by_length[2000] for names, by_length in trained_scores(name).items() if 2000 in by_length}
        assert sorted(usual) == np.flatnonzero(columns["trained"]).tolist()
        for row, psnr in usual.items():
            assert len(psnr) == columns["trained"][row] and np.mean(psnr) == pytest.approx(columns["psnr"][row, number], abs=1e-5)


@pytest.mark.parametrize("network", ["{type: PLAIN}", "{type: IMDN, candidates: [conv_3x3, conv_5x5]}"])
def test_a_search_of_another_space_is_refused_at_once(network: str, tmp_path: Path) -> None:
    (tmp_path / OPTIONS).write_text(f"_base_: {REPOSITORY / 'options' / 'sac_imdn.yml'}\nnetwork_g: {network}\n")
    with pytest.raises(UserError, match=r"the table is of IMDN with all its candidates, and this search of .* is not"):
        main(Namespace(runs=[tmp_path], output=None, set="Set14", force_yml=[], batches=1, seed=0))
