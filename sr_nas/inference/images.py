"""Images through a network: pixels of every kind, one file, and many files of which some may fail."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from sr_nas.errors import UserError, is_out_of_memory
from sr_nas.images.encode import FORMATS, check_format, holds_profile
from sr_nas.images.files import CONVERTED, read_with_metadata, to_pixels, to_tensor, write_image
from sr_nas.images.metadata import fitted
from sr_nas.images.resize import imresize
from sr_nas.inference.tiles import SMALLEST_TILE, fitting_tile, tile_count, upscale_tiles
from sr_nas.runs.device import Precision, check_precision
from sr_nas.runs.files import ABANDONED, sweep

Tile = int | Literal["auto"] | None
"""Side of the tiles in LR pixels; ``None``: the whole image at once; ``"auto"``: on a CPU tiles whose activations take 1 GiB at
most, on a GPU the whole image, and ever smaller tiles once the memory does not suffice."""


def upscale_image(
    network: nn.Module,
    pixels: np.ndarray,
    *,
    tile: int | None = None,
    device: torch.device | str,
    precision: Precision = "fp32",
    ensemble: bool = False,
    outscale: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Upscale an image, keeping its channels and depth.

    Grey is repeated to RGB, and the mean of the three outputs is taken. Alpha is upscaled by MATLAB's bicubic. The output is
    clipped and rounded half to even tile by tile, so that of an image in tiles a single tile is held as floats.

    Args:
        network: see :func:`~sr_nas.inference.tiles.upscale_tiles`; so are ``tile``, ``device``, ``precision`` and ``ensemble``.
        pixels: HxWxC, uint8, uint16, or floating point in 0..1, of which nothing is rounded; C = 1 (grey), 2 (grey, alpha),
            3 (RGB) or 4 (RGBA).
        outscale: another scale than the network's, to which its rounded output is resized by MATLAB's bicubic.
        progress: called after each tile with the share of the image that is done, up to 1.

    Returns:
        An image of the same dtype and channels, of :func:`output_size`.

    Raises:
        UserError: an invalid ``outscale``, too little memory for the output, and what ``upscale_tiles`` raises.
    """
    height, width, channels = pixels.shape
    scale = cast(int, network.scale)
    target = output_size((height, width), scale if outscale is None else outscale)
    has_alpha = channels in (2, 4)
    colour = pixels[..., :-1] if has_alpha else pixels
    try:
        np.empty((*target, channels), pixels.dtype)  # fails before the network runs for hours; untouched, it takes no memory
        upscaled = np.empty((scale * height, scale * width, colour.shape[2]), pixels.dtype)
    except (MemoryError, OverflowError, ValueError) as error:  # NumPy's errors for too large an array
        # Not a MemoryError, to which smaller tiles would be the answer.
        raise UserError(f"the memory does not suffice for an output of {target[1]}x{target[0]} pixels.") from error

    def read(rows: slice, columns: slice) -> Tensor:
        return to_tensor(colour[rows, columns]).expand(-1, 3, -1, -1)

    pieces = upscale_tiles(network, (height, width), read, tile=tile, device=device, precision=precision, ensemble=ensemble)
    for done, (rows, columns, sr) in enumerate(pieces, start=1):
        upscaled[rows, columns] = to_pixels(sr.mean(dim=1, keepdim=True) if colour.shape[2] == 1 else sr, pixels.dtype)
        if progress is not None:
            progress(done / tile_count((height, width), tile))
    if target != upscaled.shape[:2]:
        upscaled = imresize(upscaled, *target)
    return np.concatenate([upscaled, imresize(pixels[..., -1:], *target)], axis=2) if has_alpha else upscaled


def output_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (round(scale H), round(scale W)), at least 1 each.

    Raises:
        UserError: a scale that is not above 0 and finite.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"images are scaled by a number above 0, not by {scale}.")
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def upscaler(network: nn.Module, **how: Any) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return :func:`upscale_image`, with these arguments, as a function (LR HxWxC, scale) -> SR (s H)x(s W)xC.

    It runs with the weights that the network has at each call, and raises UserError for another scale than the network's.
    """

    def upscale_by_network(lr: np.ndarray, scale: int) -> np.ndarray:
        if scale != network.scale:
            raise UserError(f"the network upscales by {network.scale}, not by {scale}.")
        return upscale_image(network, lr, **how)

    return upscale_by_network


@dataclass(frozen=True)
class Outcome:
    """The result of one input file; ``"kept"`` if its output existed, ``"left out"`` if it is itself the output of another."""

    source: Path
    output: Path
    status: Literal["written", "kept", "failed", "left out"]
    message: str = ""
    """Why it failed, or a remark; mostly empty."""
    tiles: int = 1
    dropped: tuple[str, ...] = ()
    """Metadata of the input that the output lacks, such as ``"EXIF"``."""


def output_paths(inputs: Sequence[Path], output: Path, suffix: str, roots: Sequence[Path] | None = None) -> list[Path]:
    """Return the output file of each input: ``<stem><suffix><extension>`` in the folder ``output``; of a HEIC it is ``.jpg``.

    With ``roots``, a folder around each input, the folders between the two are repeated below ``output``.

    Raises:
        UserError: two inputs would be written to one file, or an input into itself.
    """
    if "/" in suffix or os.sep in suffix:
        raise UserError(f"the suffix '{suffix}' is to be a part of file names and cannot hold a path.")
    outputs: dict[str, tuple[Path, Path]] = {}
    for source, root in zip(inputs, roots or [source.parent for source in inputs], strict=True):
        ending = ".jpg" if source.suffix.lower() in CONVERTED else source.suffix
        target = output / source.parent.relative_to(root) / f"{source.stem}{suffix}{ending}"
        identity = _identity(target)
        if identity == _identity(source):
            raise _overwritten(source)
        if identity in outputs:
            other = outputs[identity][0]
            raise UserError(f"{other} and {source} would both become {target}: upscale them into different folders.")
        outputs[identity] = source, target
    return [target for _, target in outputs.values()]


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
    quality: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Outcome]:
    """Upscale image files one by one, each when its outcome is asked for; a file that fails does not stop the others.

    Channels, depth, format and, where the format takes them, colour profile, EXIF and XMP stay as they are, but for what they
    say of orientation and size, and for thumbnails. What is read but not written, such as HEIC, becomes JPEG. Where the memory
    does not suffice for a tile, tiles are halved from there on, and the outcome says so.

    Args:
        network: see :func:`upscale_image`; so are ``device``, ``precision``, ``ensemble``, ``outscale`` and ``progress``.
        inputs: image files; outcomes come in their order.
        output: see :func:`output_paths`; so are ``suffix`` and ``roots``.
        overwrite: upscale again what exists already.
        quality: of the outputs that are JPEG or WebP (:func:`~sr_nas.images.encode.encode`).

    Raises:
        UserError: at once, before anything is written: :func:`output_paths`, with ``overwrite`` an input that is the output
            of another, a folder that cannot be made, a precision the device lacks, or an invalid ``outscale``.
    """
    targets = output_paths(inputs, output, suffix, roots)
    written = {_identity(target) for target in targets}
    is_output = [_identity(source) in written for source in inputs]
    if overwrite and any(is_output):
        raise _overwritten(inputs[is_output.index(True)])
    check_precision(torch.device(device), precision)
    scale = cast(int, network.scale) if outscale is None else outscale
    output_size((1, 1), scale)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {output}: {error.strerror}") from error
    for folder in {target.parent for target in targets}:
        sweep(folder, ABANDONED)
    run = partial(
        upscale_image, network, device=device, precision=precision, ensemble=ensemble, outscale=outscale, progress=progress
    )
    batch = Batch(network, run, tile, torch.device(device))
    return (
        Outcome(source, target, "left out") if leave else batch.upscale_file(source, target, scale, overwrite, quality)
        for source, target, leave in zip(inputs, targets, is_output, strict=True)
    )


def _check_format(pixels: np.ndarray, target: Path, scale: float) -> None:
    """Raise before the network runs, perhaps for hours, the error that :func:`write_image` would raise after it."""
    height, width, channels = pixels.shape
    try:
        check_format(target.suffix, *output_size((height, width), scale), channels, 8 * pixels.dtype.itemsize)
    except UserError as error:
        raise UserError(
            f"{target} cannot be written: {error} Rename the input to end in .png, and so will the output."
        ) from error


class Batch:
    """Upscales images, and remembers from one to the next which tiles fitted in memory.

    Args:
        network: for the size of its tiles.
        run: :func:`upscale_image` of it, which takes pixels and ``tile``.
        tile: side of the tiles.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, run: Callable[..., np.ndarray], tile: Tile, device: torch.device) -> None:
        self.network, self.run, self.tile, self.device = network, run, tile, device
        self.largest: int | None = None  # larger tiles have exceeded the memory

    def upscale_file(self, source: Path, target: Path, scale: float, overwrite: bool, quality: int | None) -> Outcome:
        """Return the outcome of one file."""
        try:
            if target.is_dir():
                raise UserError(f"{target} is a folder: move it away, or choose another output folder or a suffix.")
            if not overwrite and target.exists():
                return Outcome(source, target, "kept")
            pixels, metadata = read_with_metadata(source)
            _check_format(pixels, target, scale)
            upscaled, tiles, message = self.upscale(pixels)
            profile, dropped, exif, xmp = metadata.icc_profile, metadata.others, b"", b""
            if metadata.exif or metadata.xmp:
                form = FORMATS[target.suffix.lower()].name
                exif, xmp = fitted(metadata.exif, metadata.xmp, form, upscaled.shape[0], upscaled.shape[1])
                dropped = tuple(name for name in dropped if not {"EXIF": exif, "XMP": xmp}.get(name))
            if profile and not holds_profile(target.suffix, upscaled.shape[2], 8 * upscaled.dtype.itemsize, profile):
                profile, dropped = None, (*dropped, "colour profile")
            write_image(target, upscaled, quality, icc_profile=profile, exif=exif, xmp=xmp)
        except UserError as error:
            return Outcome(source, target, "failed", str(error))
        except OSError as error:  # of target.exists: a name too long, or a link to itself
            return Outcome(source, target, "failed", f"{target} cannot be written: {error.strerror}.")
        except MemoryError:
            return Outcome(source, target, "failed", f"the memory does not suffice to read, resize or write {source}.")
        return Outcome(source, target, "written", message, tiles, dropped)

    def upscale(self, pixels: np.ndarray) -> tuple[np.ndarray, int, str]:
        """Return the upscaled image, the number of its tiles, and a remark."""
        height, width = size = pixels.shape[0], pixels.shape[1]
        image, tile = f"{width}x{height} pixels", None
        failed = remark = ""
        while True:
            try:
                if not failed:
                    tile = fitting_tile(self.network, size, self.device) if self.tile == "auto" else self.tile
                    tile = self.largest if tile is None else min(tile, self.largest or tile)
                return self.run(pixels, tile=tile), tile_count(size, tile), remark
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise UserError(f"the network does not run on {image}: {error}") from error
                side = max(size) if tile is None else min(tile, max(size))
                if self.tile is None or side <= SMALLEST_TILE:
                    tried = "" if tile is None else f", even in tiles of {tile}"
                    advice = " at once: use --tile auto or --tile 256" if self.tile is None else ""
                    raise UserError(f"the memory of {self.device} does not suffice for {image}{tried}{advice}.") from error
            # Outside of the handler, which would keep the failed attempt's tensors alive.
            failed = failed or (image if tile is None else f"tiles of {tile} pixels")
            tile = self.largest = max(side // 2, SMALLEST_TILE)
            remark = f"the memory did not suffice for {failed}: going on with tiles of {tile} pixels"
