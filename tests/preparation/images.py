"""Small images, sets and archives for the tests of this folder."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import numpy as np
from prepare_data import main

from sr_nas.images.files import write_image
from sr_nas.images.resize import downscale

NAMES = ("baby", "bird", "butterfly", "head", "woman")


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def save(file: Path, height: int = 24, width: int = 36, seed: int = 0) -> Path:
    write_image(file, noise(height, width, seed))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def make_set5(place: Path) -> Path:
    """Five HR images and their LR images, in the layout of EDSR's archive."""
    for number, name in enumerate(NAMES):
        image = noise(24 + number, 37, number)
        write_image(place / f"HR/{name}.png", image)
        for scale in (2, 3, 4):
            write_image(place / f"LR_bicubic/X{scale}/{name}x{scale}.png", downscale(image, scale))
    return place


def packed(place: Path, top: str) -> bytes:
    """A tar archive of a folder, under another name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(place, top)
    return stream.getvalue()


def run_tool(*words: str | Path, code: int = 0) -> str:
    """Run the tool in this process; return what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        assert main(list(map(str, words))) == code, printed.getvalue()
    return printed.getvalue()
