"""A compiled network: the same results, the same names, and a clear word where there is no compiler."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.trainer import check_compiler
from tests.training.test_trainer import assert_same, trainer


def test_a_compiled_step_is_the_plain_one_and_names_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is captured as always, and run as it is instead of being made into machine code, which takes seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    check_compiler(torch.device("cpu"))
    plain, fast = trainer(), trainer(compiled=True)
    assert fast.forward is not fast.network
    for train in (plain, fast):
        train.step()
    assert_same(plain.network, fast.network)
    assert list(fast.state_dict()["network"]) == list(plain.state_dict()["network"])


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(UserError, match=r"train\.compile: .*No working C\+\+ compiler found.* set train\.compile to false"):
        check_compiler(torch.device("cpu"))
