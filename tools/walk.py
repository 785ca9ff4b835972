"""Print which files of sr_nas run code in a search, in one of its steps, in a training and for one photo.

A reader who follows such a task from its command to its result has to open these files. A file counts once a function of it has
run; importing it does not count. All four run small, in a temporary folder: ``python tools/walk.py``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image

import sr_nas
from sr_nas.cli import main

PACKAGE = Path(sr_nas.__file__).parent
OPTIONS = PACKAGE.parent / "options"
STEP = ("next_batch", "alpha_step", "weight_step")
SMALL = ["num_gpu=0", "network_g:nf=16", "network_g:num_blocks=1", "datasets:train:batch_size_per_gpu=2"]
SEARCH = [*SMALL, "datasets:train:gt_size=16", "search:epochs=2", "search:steps_per_epoch=2"]
TRAIN = [*SMALL, "datasets:train:gt_size=16", "train:total_iter=2", "val:val_freq=1"]


class Walk:
    """Profile function (:func:`sys.setprofile`) that notes the files of sr_nas whose functions are entered.

    Attributes:
        files: of everything that ran, relative to the package, in the order in which they were entered.
        step_files: of the latest pair of an alpha step and a weight step, with the batches they read.
    """

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.step_files: dict[str, None] = {}
        self._in_step = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(f"{PACKAGE}{os.sep}") or code.co_name == "<module>":
            return
        file = Path(code.co_filename).relative_to(PACKAGE).as_posix()
        if file == "search/searcher.py" and code.co_name in STEP:
            if event == "call" and not self._in_step and code.co_name == STEP[0]:
                self.step_files = {}  # the training batch comes first (sr_nas.search.searcher.Searcher.run)
            self._in_step += 1 if event == "call" else -1
        if event == "call":
            self.files[file] = None
            if self._in_step:
                self.step_files[file] = None


def walk(*arguments: str) -> Walk:
    """Run a command of ``sr-nas`` and return the files it walked through.

    Raises:
        SystemExit: the command failed.
    """
    result = Walk()
    threading.setprofile(result)
    sys.setprofile(result)
    try:
        code = main(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if code:
        raise SystemExit(f"sr-nas {' '.join(arguments)} ended with {code}")
    return result


def _import_everything() -> None:
    """Import the package's modules, so that what runs while a module is imported does not count as a step of a walk."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "sr_nas."):
        if not module.name.startswith("sr_nas.bridge."):  # importing these enters our networks in other packages
            importlib.import_module(module.name)


def walks(folder: Path) -> dict[str, list[str]]:
    """Search, train and upscale in a folder; return the files of the package that each ``search``, ``step``, ``training`` and
    ``photo`` entered. ``step`` is one alpha step and one weight step."""
    _import_everything()
    roots = [f"path:experiments_root={folder}"]
    search = ["search", "-opt", str(OPTIONS / "sac_imdn.yml"), "--force_yml", *SEARCH, *roots]
    train = ["train", "-opt", str(OPTIONS / "train_imdn.yml"), "--force_yml", *TRAIN, *roots]
    Image.fromarray(np.full((24, 32, 3), 128, np.uint8)).save(folder / "photo.png")
    photo = ["inference", "-i", str(folder / "photo.png"), "-o", str(folder / "upscaled"), "--num_gpu", "0"]
    searched = walk(*search)
    trained = walk(*train, f"network_g:genotype={folder / 'sac_imdn'}")
    upscaled = walk(*photo, "--model", str(folder / "train_imdn"))
    walked = {"search": searched.files, "step": searched.step_files, "training": trained.files, "photo": upscaled.files}
    return {name: list(files) for name, files in walked.items()}


def print_walks(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the files, in the order in which they are entered")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = walks(Path(folder))
    for name, files in results.items():
        lines = sum(len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in files)
        print(f"{name:<9} {len(files):3} files, {lines:5} lines")
        if parsed.files:
            print(*(f"          {file}" for file in files), sep="\n")


if __name__ == "__main__":
    print_walks()
