"""The tensors of IMDN as its authors name them (github.com/Zheng222/IMDN)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.errors import UserError, listing
from sr_nas.export.rename import fill, renamed
from sr_nas.networks.imdn import IMDN

NAMES = (
    (r"^fea_conv\.", "head."),
    (r"^IMDB(\d+)\.c([1-4])\.", lambda match: f"blocks.{int(match[1]) - 1}.convs.{int(match[2]) - 1}."),
    (r"^IMDB(\d+)\.c5\.", lambda match: f"blocks.{int(match[1]) - 1}.fuse."),
    (r"^IMDB(\d+)\.cca\.conv_du\.", lambda match: f"blocks.{int(match[1]) - 1}.attention.gate."),
    (r"^c\.0\.", "fuse."),
    (r"^LR_conv\.", "body."),
    (r"^upsampler\.0\.", "tail."),
)


def imdn_from_released(tensors: Mapping[str, Tensor], path: Path, genotype: Any = None) -> IMDN:
    """Build the published IMDN of any size and scale from its authors' tensors.

    Raises:
        UserError: these are not the tensors of an IMDN, or a genotype is given, which is the published one here.
    """
    if genotype is not None:
        raise UserError("--genotype: released IMDN weights are of the published network, so they take no genotype.")
    ours = renamed(tensors, NAMES)
    blocks = {int(match[1]) for name in ours if (match := re.match(r"blocks\.(\d+)\.", name))}
    if "head.weight" not in ours or "tail.weight" not in ours or not blocks:
        raise UserError(
            f"{path} holds no released IMDN: fea_conv, IMDB1 ... and upsampler.0 are expected, found {listing(tensors, 8)}."
        )
    scale = round((ours["tail.weight"].shape[0] / 3) ** 0.5)
    return fill(IMDN(scale, ours["head.weight"].shape[0], len(blocks)), ours, path)
