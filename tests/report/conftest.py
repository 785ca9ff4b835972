"""A search history made up for the tests of its reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

KERNELS = [f"{kind}_{size}x{size}" for kind in ("conv", "dsconv", "dil_dsconv") for size in (3, 5)]
CANDIDATES = [f"{kernel}{norm}" for kernel in KERNELS for norm in ("", "_bn")]

History = list[dict[str, Any]]
MakeHistory = Callable[[Mapping[str, Sequence[str]], int], History]


@pytest.fixture
def imdn_choices() -> dict[str, list[str]]:
    """The four choices of IMDN, twelve candidates each."""
    return {f"conv{position}": CANDIDATES for position in range(1, 5)}


@pytest.fixture
def make_history() -> MakeHistory:
    """(choices, epochs) -> history in which the candidate of the largest beta is kept."""

    def make(choices: Mapping[str, Sequence[str]], epochs: int) -> History:
        random = np.random.default_rng(7)
        alpha = {label: 0.001 * random.standard_normal(len(names)) for label, names in choices.items()}
        history = []
        for epoch in range(1, epochs + 1):
            alpha = {label: logits + 0.1 * random.standard_normal(len(logits)) for label, logits in alpha.items()}
            beta = {label: np.exp(logits) / np.exp(logits).sum() for label, logits in alpha.items()}
            history.append(
                {
                    "epoch": epoch,
                    "step": 30 * epoch,
                    "alpha": {label: logits.tolist() for label, logits in alpha.items()},
                    "beta": {label: weight.tolist() for label, weight in beta.items()},
                    "loss": {"train": 0.03125, "task": 0.0298123, "regularizer": 0.0012, "cost": 2.1e-05, "total": 0.0310333},
                    "lambda": epoch / 5,
                    "genotype": {
                        "arch": "IMDN",
                        "genotype": {label: names[int(np.argmax(beta[label]))] for label, names in choices.items()},
                    },
                    "params": 715176,
                    "macs_lr_1280x720": 654_530_000_000,
                    "macs_hr_1280x720": 40_910_000_000,
                    "seconds": 12.4,
                    "memory_bytes": 10**9,
                }
            )
        return history

    return make
