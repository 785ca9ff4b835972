"""Weights that others have released: their tensors under our names, in our networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.export.network_file import bare_tensors, load_state, read_file
from sr_nas.genotype import Genotype, genotype_from
from sr_nas.networks.dlsr import DLSR, OPERATIONS, PUBLISHED, input_choices
from sr_nas.networks.imdn import IMDN
from sr_nas.networks.imdn import PUBLISHED as IMDN_PUBLISHED

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(regular expression, replacement) for a tensor's name; the first that matches applies."""

# github.com/Zheng222/IMDN
IMDN_NAMES: Rules = (
    (r"^fea_conv\.", "head."),
    (r"^IMDB(\d+)\.c([1-4])\.", lambda match: f"blocks.{int(match[1]) - 1}.convs.{int(match[2]) - 1}."),
    (r"^IMDB(\d+)\.c5\.", lambda match: f"blocks.{int(match[1]) - 1}.fuse."),
    (r"^IMDB(\d+)\.cca\.conv_du\.", lambda match: f"blocks.{int(match[1]) - 1}.attention.gate."),
    (r"^c\.0\.", "fuse."),
    (r"^LR_conv\.", "body."),
    (r"^upsampler\.0\.", "tail."),
)
# github.com/DawnHH/DLSR-PyTorch
DLSR_CELL_NAMES = {
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
DLSR_NAMES: Rules = (
    (r"^fea_conv\.", "head."),
    (r"^B(\d+)\.c([1-3])_d\.", lambda match: f"cells.{int(match[1]) - 1}.distill.{int(match[2]) - 1}."),
    (r"^B(\d+)\.c([1-3])_r\.op\.(0\.)?", lambda match: f"cells.{int(match[1]) - 1}.ops.{int(match[2]) - 1}."),
    (r"^B(\d+)\.((?:esa\.)?\w+)\.", lambda match: f"cells.{int(match[1]) - 1}.{DLSR_CELL_NAMES.get(match[2], match[2])}."),
    (r"^c(\d+)\.0\.", lambda match: f"joins.inputs{match[1]}."),
    (r"^cout\.0\.", "fuse."),
    (r"^LR_conv\.", "body."),
    (r"^upsampler\.0\.", "tail."),
)
DLSR_PEAK = 255.0
"""The largest value of the images that DLSR's authors train on; ours is 1."""


def load_released(path: str | Path, arch: str, genotype: Any = None) -> SRNetwork:
    """Load a released ``.pth`` or ``.safetensors`` into our network of the same architecture, in eval mode, on the CPU.

    The network takes and gives RGB in 0..1, whatever range its authors trained in. Wrappers and prefixes are those of
    :func:`~sr_nas.export.network_file.bare_tensors`; names are the authors' or ours, as BasicSR saves them after training our
    network. Sizes follow from the tensors' shapes, of DLSR the operations too, but not which cells feed which.

    Args:
        path: the file; a ``.pth`` must load with ``weights_only=True``.
        arch: ``"imdn"`` or ``"dlsr"``, in any case.
        genotype: what the file itself does not contain, in any form of :func:`sr_nas.genotype.genotype_from`.

    Raises:
        UserError: unknown architecture, a file that does not hold it, or a genotype that is missing or contradicts it.
    """
    known = {network.arch.lower(): network.arch for network in (DLSR, IMDN)}
    if arch.lower() not in known:
        raise UserError(
            f"no released weights of '{arch}' are known{nearest(arch, known.values())} Known: {listing(known.values())}. "
            "Weights that spandrel opens need no --arch."
        )
    path, arch = Path(path), known[arch.lower()]
    tensors, _ = bare_tensors(read_file(path)[1], path)
    from_authors = any(name.startswith("fea_conv.") for name in tensors)
    if from_authors:
        rules = DLSR_NAMES if arch == DLSR.arch else IMDN_NAMES
        tensors = {_renamed(name, rules): tensor for name, tensor in tensors.items()}
    parts = {match[1] for name in tensors if (match := re.match(r"(?:blocks|cells)\.(\d+)\.", name))}
    if not parts or any(name not in tensors or tensors[name].ndim != 4 for name in ("head.weight", "tail.weight")):
        raise UserError(
            f"{path} holds no {arch}: tensors by its authors' names (fea_conv, IMDB1 or B1, upsampler.0) or by ours (head, "
            f"blocks or cells, tail) are expected, found {listing(tensors, 8)}."
        )
    scale, nf = round((tensors["tail.weight"].shape[0] / 3) ** 0.5), tensors["head.weight"].shape[0]
    if arch == IMDN.arch:
        if from_authors and genotype is not None:
            raise UserError("--genotype: released IMDN weights are of the published network, so they take no genotype.")
        return load_state(IMDN(scale, nf, len(parts), IMDN_PUBLISHED if genotype is None else genotype), tensors, path)
    network = load_state(DLSR(scale, nf, len(parts), _dlsr_genotype(tensors, len(parts), genotype, path)), tensors, path)
    if from_authors:
        # Only these two layers see pixels: what lies between stays in the range that it was trained in.
        network.head.weight.data *= DLSR_PEAK
        network.tail.weight.data /= DLSR_PEAK
        network.tail.bias.data /= DLSR_PEAK  # type: ignore[union-attr]
    return network


def _renamed(name: str, rules: Rules) -> str:
    return next((ours for pattern, replacement in rules if (ours := re.sub(pattern, replacement, name)) != name), name)


def _dlsr_genotype(tensors: Mapping[str, Tensor], cells: int, genotype: Any, path: Path) -> Genotype:
    """Return the operations that the tensors have, and the inputs of cells of ``genotype``; both must agree on the operations."""
    operations = tuple(_dlsr_operation(tensors, index, path) for index in range(len(OPERATIONS)))
    if genotype is None and input_choices(cells):
        raise UserError(
            f"{path} holds the operations {listing(operations)}, but not which cells feed cells 3 to {cells}: tensors of any "
            f"two have the same shape. Name them with --genotype, of the authors' DLSR_para_loss_x2.pt for example "
            f"--genotype {','.join(PUBLISHED)}"
        )
    decided = genotype_from(operations if genotype is None else genotype, DLSR.arch, DLSR.choices(cells))
    named = tuple(decided[label][0] for label in OPERATIONS)
    if named != operations:
        raise UserError(f"{path} holds the operations {listing(operations)}, but the genotype names {listing(named)}.")
    return decided


def _dlsr_operation(tensors: Mapping[str, Tensor], index: int, path: Path) -> str:
    """Return the name of the operation whose tensors have the shapes of the first cell's."""
    prefix = f"cells.0.ops.{index}."
    shapes = {name.removeprefix(prefix): tensor.shape for name, tensor in tensors.items() if name.startswith(prefix)}
    kinds = {1: "conv", 2: "dil_conv", 4: "sep_conv"}  # by their number of convolutions
    if len(shapes) not in kinds:
        raise UserError(f"{path}: operation {index + 1} of cell 1 is none of DLSR's; it has the tensors {listing(shapes)}.")
    kernel = max(shape[-1] for shape in shapes.values())
    return f"{kinds[len(shapes)]}_{kernel}x{kernel}"
