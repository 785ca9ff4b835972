"""Tensors of others under our names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import genotype_from
from sr_nas.networks.dlsr import DLSR, OPERATIONS, PUBLISHED, input_choices
from sr_nas.networks.imdn import IMDN
from sr_nas.registry import NETWORKS
from sr_nas.runs.checkpoint import load_tensors

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(regular expression, replacement): the first that matches a name applies."""

Network = TypeVar("Network", bound=SRNetwork)


def renamed(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Return the tensors under the names that the rules make of theirs."""
    return {_rename(name, rules): tensor for name, tensor in tensors.items()}


def fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> Network:
    """Give a network the tensors of its own names, all of them and no others, and return it.

    Raises:
        UserError: a tensor is missing, of another shape, or unknown.
    """
    own = network.state_dict()
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    unknown = [name for name in tensors if name not in own]
    if wrong or unknown:
        raise UserError(
            f"{path} does not fit {network.genotype} x{network.scale}; missing or of another shape: "
            f"{listing(wrong, 5) or 'nothing'}; unknown: {listing(unknown, 5) or 'nothing'}."
        )
    network.load_state_dict(tensors)
    return network


def _rename(name: str, rules: Rules) -> Any:
    for pattern, replacement in rules:
        changed, count = re.subn(pattern, replacement, name)
        if count:
            return changed
    return name


# MERGED sr_nas.export.released: The tensors of IMDN as its authors name them (github.com/Zheng222/IMDN).


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


# MERGED sr_nas.export.released: The tensors of DLSR as its authors name them (github.com/DawnHH/DLSR-
# PyTorch).


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
RELEASED_DLSR_NAMES = (
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
    ours = renamed(tensors, RELEASED_DLSR_NAMES)
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


# MERGED sr_nas.export.released: Weights that others have released.


WRAPPERS = ("params_ema", "params", "state_dict", "model")
CONVERTERS: dict[str, Callable[[Mapping[str, Tensor], Path, Any], SRNetwork]] = {
    DLSR.arch: dlsr_from_released,
    IMDN.arch: imdn_from_released,
}


def load_released(path: str | Path, arch: str, genotype: Any = None) -> SRNetwork:
    """Load a released ``.pth`` file into our network of the same architecture, in eval mode, on the CPU.

    The network takes and gives RGB in 0..1, whatever range its authors trained in. The tensors may lie bare, under
    ``params_ema``, ``params``, ``state_dict`` or ``model``, with or without ``module.`` before their names.

    Args:
        path: the file; it must load with ``weights_only=True``. Its tensors have the names of the network's authors, or ours,
            as BasicSR saves them after training our network.
        arch: name of the architecture, in any case, e.g. ``"imdn"``.
        genotype: what the file itself does not tell, in any form of :func:`sr_nas.genotype.genotype_from`.

    Raises:
        UserError: unknown architecture, or a file that does not hold it.
    """
    known = {name.lower(): convert for name, convert in CONVERTERS.items()}
    if arch.lower() not in known:
        raise UserError(f"no released weights of '{arch}' are known{nearest(arch, CONVERTERS)} Known: {listing(CONVERTERS)}.")
    tensors = bare_tensors(load_tensors(Path(path)), Path(path))
    if "head.weight" in tensors:
        return _by_our_names(tensors, next(name for name in CONVERTERS if name.lower() == arch.lower()), genotype, Path(path))
    return known[arch.lower()](tensors, Path(path), genotype).eval()


def _by_our_names(tensors: Mapping[str, Tensor], arch: str, genotype: Any, path: Path) -> SRNetwork:
    """Build a network from what BasicSR's training of it saved: its sizes show in the tensors, its genotype does not."""
    parts = {int(match[1]) for name in tensors if (match := re.match(r"(?:blocks|cells)\.(\d+)\.", name))}
    if "tail.weight" not in tensors or not parts or any(tensors[name].ndim != 4 for name in ("head.weight", "tail.weight")):
        raise UserError(f"{path} holds no {arch}: head, blocks or cells, and tail are expected, found {listing(tensors, 8)}.")
    scale = round((tensors["tail.weight"].shape[0] / 3) ** 0.5)
    if genotype is None and any(name.startswith("joins.") for name in tensors):
        raise UserError(
            f"{path} does not say which cells feed which: tensors of any two have the same shape. "
            "Name its genotype with --genotype."
        )
    chosen = {} if genotype is None else {"genotype": genotype}
    network = NETWORKS.get(arch)(scale, tensors["head.weight"].shape[0], len(parts), **chosen)
    return fill(network, tensors, path).eval()


def bare_tensors(loaded: Mapping[str, Any], path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Take the tensors out of the wrappers that training codes put around them.

    Args:
        loaded: content of the file.
        path: the file, for messages.
        key: of the wrapper; by default the first of :data:`WRAPPERS` that the file has, or none.

    Raises:
        UserError: no wrapper is known and something in the file is no tensor; the text lists what was found.
    """
    wrapper = wrapper_of(loaded) if key is None else key
    tensors = loaded if wrapper is None else loaded.get(wrapper)
    if not isinstance(tensors, Mapping) or not tensors or not _by_name(tensors):
        expected = f"under '{key}'" if key is not None else f"bare or under {listing(WRAPPERS)}"
        raise UserError(f"{path}: tensors are expected, {expected}; found {listing(loaded, 10)}.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _by_name(tensors: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items())


def wrapper_of(loaded: Mapping[str, Any]) -> str | None:
    """Return the key under which a file's tensors lie, or ``None`` where they lie bare."""
    return next((name for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
