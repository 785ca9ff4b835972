"""A large photo is upscaled in a process of its own, whose peak memory is read."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from sr_nas.commands.benchmark_inference import main
from sr_nas.errors import UserError
from sr_nas.jobs.measure_inference import measure_inference, mirrored
from sr_nas.networks.imdn import IMDN


@pytest.mark.skipif(sys.platform == "win32", reason="the standard library does not tell the peak there")
def test_a_photo_is_upscaled_and_the_peak_is_that_of_the_child(capsys: pytest.CaptureFixture[str]) -> None:
    ballast = np.ones(10**9, np.uint8)  # of this process, which is not what is measured
    code = main(["--arch", "imdn", "--megapixels", "0.006", "--json", "--", "--tile", "64", "--num_gpu", "0"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and ballast[-1] == 1
    assert (found["width"], found["height"], found["scale"]) == (94, 63, 2)
    assert 100 * 2**20 < found["resident_bytes"] < 950 * 2**20
    assert found["seconds"] > 0


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(UserError, match=r"(?s)ended with 2: .*--tile: auto, whole, or"):
        measure_inference(IMDN(2, nf=16, num_blocks=1), 0.001, ["--tile", "0"])
    with pytest.raises(UserError, match="at least one pixel"):
        measure_inference(IMDN(2, nf=16, num_blocks=1), 0)


def test_mirroring_repeats_the_border() -> None:
    pixels = np.arange(6).reshape(2, 3, 1)
    assert mirrored(pixels, 5, 7)[..., 0].tolist() == [
        [0, 1, 2, 2, 1, 0, 0],
        [3, 4, 5, 5, 4, 3, 3],
        [3, 4, 5, 5, 4, 3, 3],
        [0, 1, 2, 2, 1, 0, 0],
        [0, 1, 2, 2, 1, 0, 0],
    ]
