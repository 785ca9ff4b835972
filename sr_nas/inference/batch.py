"""Many image files through a network, of which some may fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from sr_nas.errors import UserError
from sr_nas.images.encode import check_format, holds_profile
from sr_nas.images.files import read_with_metadata, write_image
from sr_nas.inference.images import output_size, upscale_image
from sr_nas.inference.tiles import SMALLEST_TILE, fitting_tile, tile_count
from sr_nas.runs.device import Precision, check_precision, is_out_of_memory
from sr_nas.runs.files import ABANDONED, sweep

Tile = int | Literal["auto"] | None
"""Side of the tiles in LR pixels; ``None``: the whole image at once; ``"auto"``: that where the memory suffices, else as
large tiles as fit."""
Status = Literal["written", "kept", "failed", "left out"]


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        source: the input file.
        output: where the upscaled image is, or would have been.
        status: ``"written"``; ``"kept"``: it was there already; ``"failed"``; ``"left out"``: the input is the output of
            another one.
        message: why it failed, or what else is worth knowing; mostly empty.
        seconds: time spent on it.
        tiles: in how many tiles it was cut.
        dropped: what the input says beside its pixels and the output does not, such as ``"EXIF"``.
    """

    source: Path
    output: Path
    status: Status
    message: str
    seconds: float
    tiles: int = 1
    dropped: tuple[str, ...] = ()


def output_paths(inputs: Sequence[Path], output: Path, suffix: str, roots: Sequence[Path] | None = None) -> list[Path]:
    """Return where each input's upscaled image goes: ``<stem><suffix><extension>`` in the folder ``output``.

    Args:
        inputs: image files.
        output: folder.
        suffix: a part of every name.
        roots: a folder around each input; the folders between the two are kept below ``output``.

    Raises:
        UserError: two inputs would be written to one file, or an input into itself.
    """
    if "/" in suffix or os.sep in suffix:
        raise UserError(f"the suffix '{suffix}' is to be a part of file names and cannot hold a path.")
    folders = (
        [source.parent.relative_to(root) for source, root in zip(inputs, roots, strict=True)] if roots else [Path()] * len(inputs)
    )
    outputs = [output / folder / f"{source.stem}{suffix}{source.suffix}" for source, folder in zip(inputs, folders, strict=True)]
    taken: dict[str, Path] = {}
    for source, target in zip(inputs, outputs, strict=True):
        identity = _identity(target)
        if identity == _identity(source):
            raise _overwritten(source)
        if identity in taken:
            raise UserError(f"{taken[identity]} and {source} would both become {target}: upscale them into different folders.")
        taken[identity] = source
    return outputs


def _identity(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def _overwritten(source: Path) -> UserError:
    return UserError(f"{source} would be overwritten: choose another output folder or a suffix.")


def upscale_files(
    network: nn.Module,
    inputs: Sequence[Path],
    output: Path,
    *,
    tile: Tile = "auto",
    suffix: str = "",
    roots: Sequence[Path] | None = None,
    overwrite: bool = False,
    device: torch.device | str,
    precision: Precision = "fp32",
    ensemble: bool = False,
    outscale: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Outcome]:
    """Upscale image files one after the other, each when its outcome is asked for.

    Channels, depth, format and, where the format takes it, the colour profile stay as they are. What fails does not stop
    the others. Where the memory does not suffice for a tile, tiles are halved from there on, and the outcome says so.

    Args:
        network: see :func:`~sr_nas.inference.tiles.upscale`; so are ``device``, ``precision`` and ``ensemble``.
        inputs: image files.
        output: folder for the upscaled images, made where it is missing.
        tile: see :data:`Tile`.
        suffix: put between the stem and the extension of every name.
        roots: see :func:`output_paths`.
        overwrite: upscale again what is there already.
        outscale: see :func:`~sr_nas.inference.images.upscale_image`.
        progress: called as an image grows, with the share of it that is done, up to 1.

    Returns:
        An outcome per input, in their order.

    Raises:
        UserError: at once, before anything is written: :func:`output_paths`, with ``overwrite`` an input that is the output
            of another, a folder that cannot be made, a precision the device lacks, or a scale that is none.
    """
    outputs = output_paths(inputs, output, suffix, roots)
    made = {_identity(target) for target in outputs}
    results = [_identity(source) in made for source in inputs]
    if overwrite and any(results):
        raise _overwritten(inputs[results.index(True)])
    check_precision(torch.device(device), precision)
    if outscale is not None:
        output_size((1, 1), outscale)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {output}: {error.strerror}") from error
    for folder in {target.parent for target in outputs}:
        sweep(folder, ABANDONED)
    settings = {"device": device, "precision": precision, "ensemble": ensemble, "outscale": outscale, "progress": progress}
    batch = _Batch(network, tile, settings)
    return (
        Outcome(source, target, "left out", "", 0.0) if is_result else batch.upscale_file(source, target, overwrite)
        for source, target, is_result in zip(inputs, outputs, results, strict=True)
    )


class _Batch:
    """Upscales files, and remembers from one to the next what tiles fitted in memory."""

    def __init__(self, network: nn.Module, tile: Tile, settings: dict[str, Any]) -> None:
        self.network, self.tile, self.settings = network, tile, settings
        self.fitting: dict[tuple[int, int], int | None] = {}
        self.largest: int | None = None
        """Tiles are no larger than this, since a larger one exceeded the memory."""

    def upscale_file(self, source: Path, target: Path, overwrite: bool) -> Outcome:
        start = time.perf_counter()
        dropped: tuple[str, ...] = ()
        try:
            if not overwrite and _exists(target):
                return Outcome(source, target, "kept", "", 0.0)
            pixels, metadata = read_with_metadata(source)
            self._check_format(pixels, target)
            upscaled, tiles, message = self._upscale(pixels)
            channels, bits, profile = upscaled.shape[2], upscaled.dtype.itemsize * 8, metadata.icc_profile
            dropped = metadata.others
            if profile is not None and not holds_profile(target.suffix, channels, bits, profile):
                profile, dropped = None, (*dropped, "colour profile")
            write_image(target, upscaled, icc_profile=profile)
        except UserError as error:
            return Outcome(source, target, "failed", str(error), time.perf_counter() - start)
        except MemoryError:
            message = f"the memory does not suffice to read, resize or write {source}."
            return Outcome(source, target, "failed", message, time.perf_counter() - start)
        return Outcome(source, target, "written", message, time.perf_counter() - start, tiles, dropped)

    def _check_format(self, pixels: np.ndarray, target: Path) -> None:
        """Raise before the network runs, perhaps for hours, what :func:`write_image` would."""
        scale = self.settings["outscale"] or cast(int, self.network.scale)
        height, width = output_size((pixels.shape[0], pixels.shape[1]), scale)
        try:
            check_format(target.suffix, height, width, pixels.shape[2], 8 * pixels.dtype.itemsize)
        except UserError as error:
            raise UserError(
                f"{target} cannot be written: {error} Rename the input to end in .png, and so will the output."
            ) from error

    def _upscale(self, pixels: np.ndarray) -> tuple[np.ndarray, int, str]:
        """Return the upscaled image, the number of its tiles, and what there is to say."""
        height, width = size = pixels.shape[0], pixels.shape[1]
        shown, device = f"{width}x{height} pixels", self.settings["device"]
        tile, failed = self._first_tile(size), None
        while True:
            try:
                upscaled = upscale_image(self.network, pixels, tile=tile, **self.settings)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise UserError(f"the network does not run on {shown}: {error}") from error
                if self.tile is None:
                    raise UserError(
                        f"the memory of {device} does not suffice for {shown} at once: use --tile auto or --tile 256."
                    ) from error
                side = max(size) if tile is None else min(tile, max(size))
                if side <= SMALLEST_TILE:
                    how = "" if tile is None else f", even in tiles of {tile}"
                    raise UserError(f"the memory of {device} does not suffice for {shown}{how}.") from error
            # Outside of the handler, which would keep the failed attempt's tensors alive.
            failed = failed or (shown if tile is None else f"tiles of {tile} pixels")
            tile = max(side // 2, SMALLEST_TILE)
        if failed is None:
            return upscaled, tile_count(size, tile), ""
        self.largest = tile
        return upscaled, tile_count(size, tile), f"the memory did not suffice for {failed}: going on with tiles of {tile} pixels"

    def _first_tile(self, size: tuple[int, int]) -> int | None:
        if self.tile != "auto":
            tile = self.tile
        elif size in self.fitting:
            tile = self.fitting[size]
        else:
            try:
                tile = self.fitting[size] = fitting_tile(self.network, size, self.settings["device"])
            except RuntimeError as error:
                raise UserError(f"the network does not run on images this large: {error}") from error
        if self.largest is None:
            return tile
        return self.largest if tile is None else min(tile, self.largest)


def _exists(target: Path) -> bool:
    try:
        return target.exists()
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from error
