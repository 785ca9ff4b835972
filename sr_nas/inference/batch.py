"""Many image files through a network, of which some may fail."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from sr_nas.errors import UserError
from sr_nas.images.files import read_image, write_image
from sr_nas.inference.images import upscale_image
from sr_nas.inference.tiles import Precision

SMALLEST_TILE = 32
"""Where memory runs out, tiles are halved as long as they stay this large; below, the overlap is all they hold."""

Status = Literal["written", "kept", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        source: the input file.
        output: where the upscaled image is, or would have been.
        status: ``"written"``; ``"kept"``: it was there already; ``"failed"``.
        message: why it failed, or what else is worth knowing; mostly empty.
        seconds: time spent on it.
    """

    source: Path
    output: Path
    status: Status
    message: str
    seconds: float


def output_paths(inputs: Sequence[Path], output: Path, suffix: str) -> list[Path]:
    """Return where each input's upscaled image goes: ``<stem><suffix><extension>`` in the folder ``output``.

    Raises:
        UserError: two inputs would be written to one file, or an input would be overwritten.
    """
    if "/" in suffix or os.sep in suffix:
        raise UserError(f"the suffix '{suffix}' is to be a part of file names and cannot hold a path.")
    outputs = [output / f"{source.stem}{suffix}{source.suffix}" for source in inputs]
    sources = {_identity(source): source for source in inputs}
    taken: dict[str, Path] = {}
    for source, target in zip(inputs, outputs, strict=True):
        identity = _identity(target)
        if identity in sources:
            raise UserError(f"{sources[identity]} would be overwritten: choose another output folder or a suffix.")
        if identity in taken:
            raise UserError(f"{taken[identity]} and {source} would both become {target}: upscale them into different folders.")
        taken[identity] = source
    return outputs


def _identity(path: Path) -> str:
    return os.path.normcase(path.resolve())


def upscale_files(
    network: nn.Module,
    inputs: Sequence[Path],
    output: Path,
    *,
    tile: int | None = None,
    suffix: str = "",
    overwrite: bool = False,
    device: torch.device | str,
    precision: Precision = "fp32",
) -> Iterator[Outcome]:
    """Upscale image files one after the other, each when its outcome is asked for.

    Channels, depth and format stay as they are. What fails does not stop the others. Where the memory does not
    suffice for a tile, tiles are halved from there on, and the outcome says so.

    Args:
        network: see :func:`~sr_nas.inference.tiles.upscale`; so are ``tile``, ``device`` and ``precision``.
        inputs: image files.
        output: folder for the upscaled images, made where it is missing.
        suffix: put between the stem and the extension of every name.
        overwrite: upscale again what is there already.

    Returns:
        An outcome per input, in their order.

    Raises:
        UserError: at once, before anything is written: :func:`output_paths`, or a folder that cannot be made.
    """
    outputs = output_paths(inputs, output, suffix)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {output}: {error.strerror}") from error
    return _outcomes(network, list(zip(inputs, outputs, strict=True)), tile, overwrite, device, precision)


def _outcomes(
    network: nn.Module,
    files: list[tuple[Path, Path]],
    tile: int | None,
    overwrite: bool,
    device: torch.device | str,
    precision: Precision,
) -> Iterator[Outcome]:
    for source, target in files:
        if target.exists() and not overwrite:
            yield Outcome(source, target, "kept", "", 0.0)
            continue
        start = time.perf_counter()
        status: Status = "written"
        message = ""
        try:
            pixels, used = _upscale_in_memory(network, read_image(source), tile, device, precision)
            write_image(target, pixels)
            if used != tile:
                tile, message = used, f"the memory did not suffice for tiles of {tile} pixels: going on with {used}"
        except UserError as error:
            status, message = "failed", str(error)
        yield Outcome(source, target, status, message, time.perf_counter() - start)


def _upscale_in_memory(
    network: nn.Module, pixels: np.ndarray, tile: int | None, device: torch.device | str, precision: Precision
) -> tuple[np.ndarray, int | None]:
    """Return the upscaled image and the size of the tiles that fitted in memory."""
    size = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
    while True:
        try:
            return upscale_image(network, pixels, tile=tile, device=device, precision=precision), tile
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise UserError(f"the network does not run on {size}: {error}") from error
            if tile is None:
                raise UserError(
                    f"the memory of {device} does not suffice for {size} at once: cut them in tiles by --tile 256."
                ) from error
            if tile < 2 * SMALLEST_TILE:
                raise UserError(f"the memory of {device} does not suffice for {size}, even in tiles of {tile}.") from error
        # Outside of the handler, which would keep the failed attempt's tensors alive.
        tile //= 2


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    # CUDA has an exception of its own; the CPU and MPS only a text.
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return known or any(text in str(error) for text in ("out of memory", "can't allocate memory"))
