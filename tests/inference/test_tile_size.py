"""The tiles that are chosen stay within the bound, and no smaller than they must be."""

from __future__ import annotations

import pytest
from torch import nn

from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.inference.tiles import ACTIVATION_BYTES, fitting_tile, tile_overlap
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN


@pytest.mark.parametrize("network", [IMDN(2), IMDN(4), DLSR(2)], ids=["imdn x2", "imdn x4", "dlsr x2"])
def test_a_photo_of_20_megapixels_is_cut_in_the_largest_tiles_that_fit(network: nn.Module) -> None:
    tile = fitting_tile(network, (3648, 5472), "cpu")
    assert tile is not None
    side = tile + 2 * tile_overlap(network)
    needed = peak_activation_bytes(network, (side, side))
    assert 0.98 * ACTIVATION_BYTES < needed <= ACTIVATION_BYTES


def test_what_fits_is_not_cut() -> None:
    network = IMDN(2)
    assert fitting_tile(network, (480, 480), "cpu") is None
    assert peak_activation_bytes(network, (480, 480)) <= ACTIVATION_BYTES
    assert fitting_tile(network, (800, 800), "cpu") is not None


def test_an_accelerator_is_asked_for_the_whole_image() -> None:
    assert fitting_tile(IMDN(2), (3648, 5472), "cuda") is None
