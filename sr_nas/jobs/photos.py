"""Photos as people have them, made ready for a search: sharp enough, each scene once, and some kept out for good."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.runs.device import cores

LEAST, SIDE, LARGE, ENOUGH = 4, 128, 4_000_000, 150_000_000
"""Photos that are needed; pixels of the shorter side; pixels of a photo that is halved; of all to train on, then it ends."""
TWINS, FLAT = 32, 2.0
"""Of 256 bits of pHash, those in which pictures of one scene differ at most; grey levels by which one of nothing deviates."""
CROP = 320
"""Side of what is cut from the middle of a photo that trainings are judged by."""
KEPT_OUT, JUDGE, TRAIN = ROLES = ("kept_out", "judge", "train")
LEFT_OUT = "left_out"


def _digest(photos: Path, file: Path) -> str:
    return hashlib.sha256(file.relative_to(photos).as_posix().encode(errors="surrogateescape")).hexdigest()


def role_of(number: int) -> str:
    """Return what a photo is for, by its number among those of use: of eight one is kept out, one judges; of all 8 each."""
    return ROLES[number % 8] if number % 8 < 2 and number < 64 else TRAIN


def prepare(photos: Path, files: Sequence[Path], folder: Path, stop: Callable[[], bool]) -> dict[str, dict[str, str]] | None:
    """Write photos as PNG into ``kept_out``, ``judge`` and ``train`` of a new folder, until there are enough to train on.

    Those of 4 megapixels and more are halved as MATLAB's ``imresize`` does, until they have fewer, or 128 pixels a side: cameras
    and JPEG blur single pixels. What cannot be read, is too small, shows nothing, or the scene of another one, is left out. The
    order is that of the SHA-256 of the paths within ``photos``, the same on every file system.

    Args:
        photos: folder of all ``files``; nothing is written there.
        folder: to write to; what is there is removed.
        stop: whether a signal asks to stop.

    Returns:
        Role -> file -> name that was written, and ``left_out`` -> file -> why; ``None`` where it was stopped.

    Raises:
        UserError: too few are left.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pixels, known = 0, list[tuple[imagehash.ImageHash, Path]]()
    result: dict[str, dict[str, str]] = {name: {} for name in (*ROLES, LEFT_OUT)}
    files, size = sorted(files, key=lambda file: _digest(photos, file)), 2 * cores()
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(files), size):
            some = files[start : start + size]
            for file, image in zip(some, pool.map(_read, some), strict=True):
                if not isinstance(image, str):
                    scene = imagehash.phash(Image.fromarray(image), 16)
                    twin = next((other for bits, other in known if bits - scene <= TWINS), None)
                    image = image if twin is None else f"it shows what {twin} shows"
                if isinstance(image, str):
                    result[LEFT_OUT][str(file)] = image
                    continue
                role = role_of(len(known))
                known.append((scene, file))
                pixels += image.shape[0] * image.shape[1] * (role == TRAIN)
                if role == JUDGE:
                    top, left = ((side - min(side, CROP)) // 2 for side in image.shape[:2])
                    image = np.ascontiguousarray(image[top : top + CROP, left : left + CROP])
                name = re.sub(r"[^A-Za-z0-9._+-]", "_", file.stem)[:60] + f"_{_digest(photos, file)[:8]}.png"
                write_image(folder / role / name, image)
                result[role][str(file)] = name
            if stop():
                return None
            if pixels > ENOUGH:
                break
    if len(known) < LEAST:
        reasons = [f"\n  {file}: {why}" for file, why in list(result[LEFT_OUT].items())[:10]]
        raise UserError(
            f"--photos {photos}: {LEAST} photos of different scenes are needed, and {len(known)} can be used.{''.join(reasons)}"
        )
    return result


def _read(file: Path) -> np.ndarray | str:
    """Return a photo, halved if it is large, uint8 [H, W, 3]; or why it is of no use."""
    try:
        image = read_rgb(file)
        while image.shape[0] * image.shape[1] >= LARGE and min(image.shape[:2]) >= 2 * SIDE:
            image = downscale(image, 2)
    except UserError as error:
        return str(error).removeprefix(f"cannot read the image {file}: ")
    except MemoryError:
        return "it does not fit into the memory"
    if min(image.shape[:2]) < SIDE:
        return f"it has {image.shape[1]}x{image.shape[0]} pixels, and {SIDE} a side are needed"
    return image if image.std() >= FLAT else "it shows nothing but one colour"
