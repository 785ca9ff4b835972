"""The tensors of DLSR as its authors name them (github.com/DawnHH/DLSR-PyTorch)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.errors import UserError, listing
from sr_nas.export.rename import fill, renamed
from sr_nas.genotype import genotype_from
from sr_nas.networks.dlsr import DLSR, OPERATIONS, PUBLISHED, input_choices

IN_A_CELL = {
    "c4": "last",
    "c5": "fuse",
    "esa.conv1": "attention.reduce",
    "esa.conv_f": "attention.skip",
    "esa.conv2": "attention.stride",
    "esa.conv_max": "attention.wide.0",
    "esa.conv3": "attention.wide.2",
    "esa.conv3_": "attention.wide.4",
    "esa.conv4": "attention.expand",
}
NAMES = (
    (r"^fea_conv\.", "head."),
    (r"^B(\d+)\.c([1-3])_d\.", lambda match: f"cells.{int(match[1]) - 1}.distill.{int(match[2]) - 1}."),
    (r"^B(\d+)\.c([1-3])_r\.op\.(0\.)?", lambda match: f"cells.{int(match[1]) - 1}.ops.{int(match[2]) - 1}."),
    (r"^B(\d+)\.((?:esa\.)?\w+)\.", lambda match: f"cells.{int(match[1]) - 1}.{IN_A_CELL.get(match[2], match[2])}."),
    (r"^c(\d+)\.0\.", lambda match: f"joins.inputs{match[1]}."),
    (r"^cout\.0\.", "fuse."),
    (r"^LR_conv\.", "body."),
    (r"^upsampler\.0\.", "tail."),
)
# Its authors train on images in 0..255.
PEAK = 255.0


def dlsr_from_released(tensors: Mapping[str, Tensor], path: Path, genotype: Any = None) -> DLSR:
    """Build a DLSR of any size and scale from its authors' tensors, for images in 0..1.

    The three operations show in the tensors' shapes. The inputs of the cells do not: every cell joins two others by a
    tensor of the same shape, whichever they are, so ``genotype`` must name them.

    Args:
        tensors: by the authors' names, for images in 0..255.
        path: the file, for messages.
        genotype: see :func:`sr_nas.genotype.genotype_from`.

    Raises:
        UserError: these are not the tensors of a DLSR, or a genotype that is missing or contradicts them.
    """
    ours = renamed(tensors, NAMES)
    cells = {int(match[1]) for name in ours if (match := re.match(r"cells\.(\d+)\.", name))}
    if "head.weight" not in ours or "tail.weight" not in ours or len(cells) < 2:
        raise UserError(
            f"{path} holds no released DLSR: fea_conv, B1, B2 ... and upsampler.0 are expected, found {listing(tensors, 8)}."
        )
    found = tuple(_operation(ours, index, path) for index in range(len(OPERATIONS)))
    choices = DLSR.choices(len(cells))
    if genotype is None and input_choices(len(cells)):
        raise UserError(
            f"{path} holds the operations {listing(found)}, but not which cells feed cells 3 to {len(cells)}: tensors of any "
            f"two have the same shape. Name them with --genotype, of the authors' DLSR_para_loss_x2.pt for example "
            f"--genotype {','.join(PUBLISHED)}"
        )
    picked = genotype_from(found if genotype is None else genotype, DLSR.arch, choices)
    named = tuple(picked[label][0] for label in OPERATIONS)
    if named != found:
        raise UserError(f"{path} holds the operations {listing(found)}, but the genotype names {listing(named)}.")
    scale = round((ours["tail.weight"].shape[0] / 3) ** 0.5)
    network = fill(DLSR(scale, ours["head.weight"].shape[0], len(cells), picked), ours, path)
    # Only these two layers see pixels: what lies between stays in the range that it was trained in.
    network.head.weight.data *= PEAK
    network.tail.weight.data /= PEAK
    network.tail.bias.data /= PEAK  # type: ignore[union-attr]
    return network


def _operation(ours: Mapping[str, Tensor], index: int, path: Path) -> str:
    """Read the name of an operation off the tensors of the first cell."""
    prefix = f"cells.0.ops.{index}."
    shapes = {name.removeprefix(prefix): tuple(ours[name].shape) for name in ours if name.startswith(prefix)}
    kinds = {
        ("weight",): "conv",
        ("1.weight", "2.weight"): "dil_conv",
        ("1.weight", "2.weight", "4.weight", "5.weight"): "sep_conv",
    }
    kind = kinds.get(tuple(sorted(shapes)))
    if kind is None:
        raise UserError(f"{path}: operation {index + 1} of cell 1 is none of DLSR's; it has the tensors {listing(shapes)}.")
    kernel = max(shape[-1] for shape in shapes.values())
    return f"{kind}_{kernel}x{kernel}"
