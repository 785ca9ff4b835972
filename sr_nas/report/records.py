"""What a record of the search history says, as arrays and as words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_nas.errors import UserError, listing
from sr_nas.genotype import JOINT

Candidates = Mapping[str, Sequence[str]]
"""label -> names of its candidates; position i belongs to alpha[i]."""

Record = Mapping[str, Any]
"""One epoch of a search, as ``Searcher.record`` makes it, with the parameters and MACs of its genotype; epoch 0 is the start."""


def series(history: Sequence[Record], choices: Candidates, key: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``key`` (``"alpha"`` or ``"beta"``) over the epochs, per label, shape [epochs, candidates].

    Raises:
        UserError: the history is empty or belongs to other choices.
    """
    if not history:
        raise UserError("the search history has no epoch yet: there is nothing to plot. Let the search finish one epoch first.")
    for record in history:
        for label, names in choices.items():
            if label not in record[key]:
                found = f"no {key} for the choice '{label}' (it has {listing(record[key])})"
            elif len(record[key][label]) != len(names):
                found = f"{len(record[key][label])} values of {key} for '{label}', which has {len(names)} candidates"
            else:
                continue
            raise UserError(f"epoch {record['epoch']} of the search history has {found}: it belongs to another search space.")
    return {label: np.array([record[key][label] for record in history], dtype=np.float64) for label in choices}


def winners(record: Record, label: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return what the genotype keeps at ``label``; where the genotype has no such label, the candidate of largest beta."""
    kept = record["genotype"]["genotype"].get(label)
    if kept is None:
        return (names[int(np.argmax(record["beta"][label]))],)
    return (kept,) if isinstance(kept, str) else tuple(kept)


def genotype_text(record: Record) -> str:
    """Return e.g. ``IMDN(conv_3x3, dsconv_3x3_bn)``; several names kept by one choice are joined with ``+``."""
    genotype = record["genotype"]
    kept = [names if isinstance(names, str) else JOINT.join(names) for names in genotype["genotype"].values()]
    return f"{genotype['arch']}({', '.join(kept)})"


def macs(record: Record, decimals: int = 1) -> dict[str, str]:
    """Return every ``macs_[lr_|hr_]<width>x<height>`` of a record under the full name of its convention.

    MACs of super-resolution networks are quoted for an LR input or for an HR output of a given size; they differ by the
    square of the scale, so a number without its convention means nothing.
    """
    convention = {"lr": "LR input", "hr": "HR output", None: "input"}
    found = {key: re.fullmatch(r"macs_(?:(lr|hr)_)?(\d+x\d+)", key) for key in record}
    return {f"MACs, {convention[match[1]]} {match[2]}": giga(record[key], decimals) for key, match in found.items() if match}


def truth(record: Record) -> dict[str, str]:
    """Return data set -> true accuracies of the record's network, where they are known (NAS-Bench-201)."""
    known = record.get("true_accuracy", {})
    return {name: f"valid {found['valid']:.2f} test {found['test']:.2f}" for name, found in known.items()}


def giga(count: float, decimals: int = 1) -> str:
    """Return a count in units of 10^9 (G), or of 10^6 (M) below that."""
    return f"{count / 1e9:.{decimals}f} G" if count >= 1e9 else f"{count / 1e6:.{decimals}f} M"


def number(value: float) -> str:
    """Return a loss, rate or strength with six significant digits, trailing zeros dropped."""
    return f"{value:.6g}"
