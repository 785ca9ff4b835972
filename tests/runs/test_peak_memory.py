"""The largest memory of this process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_nas.runs.device import peak_memory, reset_peak_memory


def test_peak_memory_counts_from_where_it_is_reset() -> None:
    device = torch.device("cpu")
    if not reset_peak_memory(device):
        pytest.skip("this system cannot reset the peak")
    before = peak_memory(device)
    block = np.ones(150_000_000, np.uint8)
    with_block = peak_memory(device)
    del block
    kept = peak_memory(device)
    reset_peak_memory(device)
    after = peak_memory(device)
    assert None not in (before, with_block, kept, after)
    assert with_block - before > 140e6  # type: ignore[operator]
    assert kept == with_block
    assert with_block - after > 140e6  # type: ignore[operator]
