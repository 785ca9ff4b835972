"""Finite differences measured against the exact second order by ``tools/second_order.py``."""

from __future__ import annotations

import pytest
from second_order import RADII, print_errors

from tests.conftest import REPOSITORY

TINY = ["network_g:nf=8", "network_g:num_blocks=1", "network_g:candidates=[conv_3x3,dsconv_3x3]"]
TINY += ["datasets:train:batch_size_per_gpu=1", "datasets:train:gt_size=8"]


@pytest.mark.slow
def test_errors_are_those_of_each_radius_and_vanish_where_no_rectifier_changes_sides(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(REPOSITORY / "options" / "darts_imdn.yml")
    print_errors(["-opt", file, "--steps", "1", "--seeds", "0", "--force_yml", *TINY])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[3:] == [f"{radius:.0e}" for radius in RADII] and len(rows) == 2
    for row in rows:
        _, _, precision, *errors = row.split()
        if precision == "float64":
            assert float(errors[0]) > 0.01 and float(errors[-1]) < 1e-6
