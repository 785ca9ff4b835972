"""Small images for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sr_nas.images.files import write_image


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def save(file: Path, height: int = 24, width: int = 36, seed: int = 0) -> Path:
    write_image(file, noise(height, width, seed))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
