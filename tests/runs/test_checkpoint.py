"""Checkpoints restore random states; damaged files are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.runs.checkpoint import load_checkpoint, load_tensors, save_checkpoint


def test_checkpoints_bring_back_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "c.pt", {"step": 5})
    expected = torch.rand(3)
    assert load_checkpoint(tmp_path / "c.pt", torch.device("cpu")) == {"step": 5}
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not torch at all"])
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.pt"):
        load_tensors(tmp_path / "c.pt")


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"params": {}}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="is no checkpoint of a run: it holds params"):
        load_checkpoint(tmp_path / "c.pt", torch.device("cpu"))
