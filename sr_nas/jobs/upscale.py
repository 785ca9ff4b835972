"""One image in memory through a network: a NumPy array or a PIL image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TypeVar, cast, get_args

import numpy as np
from PIL import Image, ImageOps

from sr_nas.contracts import SRNetwork
from sr_nas.errors import listing
from sr_nas.export.model import load_model
from sr_nas.inference.images import Batch, Tile, upscale_image
from sr_nas.inference.optimize import for_inference
from sr_nas.runs.device import Precision, pick_device

MODES = ("L", "LA", "RGB", "RGBA", "I;16", "F")
"""Modes of PIL images whose pixels are those of an array that is upscaled."""
Picture = TypeVar("Picture", bound=np.ndarray | Image.Image)


def upscale(
    image: Picture,
    model: str | Path | SRNetwork = "x2",
    *,
    tile: Tile = "auto",
    precision: Precision = "fp32",
    ensemble: bool = False,
    outscale: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Picture:
    """Upscale an image in memory, on a GPU where there is one; return one of the same type, channels and depth.

    Args:
        image: HxW or HxWxC, C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); uint8, uint16, or floating point in 0..1. Or a
            PIL image of one of :data:`MODES`, which comes back upright, with its colour profile.
        model: what :func:`~sr_nas.export.model.load_model` takes, such as a name that ``sr-nas models`` lists; or a network,
            which saves loading it for each image.
        tile: side of the tiles in LR pixels; ``None``: the whole image at once; ``"auto"``: as the memory has it.
        precision: see :func:`~sr_nas.inference.images.upscale_image`; so are ``ensemble``, ``outscale`` and ``progress``.

    Raises:
        ValueError: no such image; floating point beyond 0..1; another ``tile`` or ``precision``.
        UserError: no such model, too little memory, a precision that the device lacks, or an output that is not finite.
    """
    if isinstance(image, Image.Image) and image.mode not in MODES:
        raise ValueError(f"an image of the mode {image.mode} is not upscaled; convert it, as by image.convert('RGB')")
    if isinstance(image, Image.Image) and "transparency" in image.info:
        raise ValueError("the colour that stands for transparent would be lost; convert the image, as by image.convert('RGBA')")
    if not (tile is None or tile == "auto" or (isinstance(tile, Integral) and tile is not True and tile > 0)):
        raise ValueError(f"tile is a number of pixels above 0, 'auto' or None, and not {tile!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision is one of {listing(get_args(Precision))}, and not {precision!r}")
    array = np.asarray(ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else image)
    is_floating, pixels = array.dtype.kind == "f", np.atleast_3d(array)
    of_kind = is_floating or array.dtype in (np.uint8, np.uint16)
    if not of_kind or array.ndim not in (2, 3) or pixels.shape[2] > 4 or not array.size:
        raise ValueError(f"no image: {array.dtype} of shape {array.shape}; HxW or HxWxC, C up to 4, uint8, uint16 or float")
    if is_floating and not (array.min() >= 0 and array.max() <= 1):  # NaN too
        raise ValueError(f"floating point is from 0 to 1, and this is from {array.min()} to {array.max()}")
    network, device = load_model(model) if isinstance(model, (str, Path)) else model, pick_device("auto")
    executed, _ = for_inference(network, "auto", device, precision, array.shape[0] * array.shape[1] * (8 if ensemble else 1))
    run = partial(upscale_image, executed, device=device, precision=precision, ensemble=ensemble)
    run = partial(run, outscale=outscale, progress=progress)
    upscaled, _, _ = Batch(executed, run, tile, device).upscale(pixels)
    upscaled = upscaled.reshape(*upscaled.shape[:2], *array.shape[2:])
    if is_floating:
        upscaled = upscaled.clip(0, 1)  # what bicubic resizing of alpha, and to another scale, exceeds
    if not isinstance(image, Image.Image):
        return cast(Picture, upscaled)
    picture = Image.fromarray(upscaled)
    if profile := image.info.get("icc_profile"):
        picture.info["icc_profile"] = profile
    return cast(Picture, picture)
