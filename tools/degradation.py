"""A picture of what the degradation of an option file makes of a patch: HR, the clean LR patch, and LR as the training draws it.

``python tools/degradation.py -opt options/train_jpeg.yml options/train_real.yml -o degradation.png`` has a row for each file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sr_nas.cli import with_errors_printed
from sr_nas.data.loader import PatchDataset
from sr_nas.errors import UserError
from sr_nas.images.files import write_image
from sr_nas.options.load import load_options
from sr_nas.task import find_task, training_options

ENLARGED = 2
"""Side of an HR pixel in the picture; an LR pixel is so many times larger as the scale says."""
GAP = 6


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", nargs="+", required=True, metavar="FILE", help="option files of trainings")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PNG", help="picture to write")
    parser.add_argument("--draws", type=int, default=4, metavar="N", help="degraded patches in a row (default: 4)")
    parser.add_argument("--image", type=int, default=0, metavar="N", help="number of the training image (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which place of it (default: 0)")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY=VALUE", help="change options, as train does")
    return parser


def main() -> int:
    """Run the command."""
    parsed = make_parser().parse_args()
    return with_errors_printed("degradation", lambda: _run(parsed))


def _run(parsed: argparse.Namespace) -> int:
    write_image(parsed.output, np.concatenate([row(file, parsed) for file in parsed.opt]))
    return 0


def row(file: str, parsed: argparse.Namespace) -> np.ndarray:
    """Return HR, LR and ``parsed.draws`` degraded LR patches of one place side by side, uint8 [H, W, 3]."""
    options = load_options(training_options, file, parsed.force_yml)
    section, task = options.datasets.train, find_task(options.task)
    if not getattr(section, "degradation", None):
        raise UserError(f"{file}: datasets.train has no degradation to draw.")
    pairs = task.images(options)
    if not 0 <= parsed.image < len(pairs):
        raise UserError(f"--image {parsed.image}: the training images are 0 to {len(pairs) - 1}.")
    samples: Any = task.samples(options, pairs, parsed.seed)
    address = (parsed.image, 0)
    low, high = PatchDataset(pairs, section.gt_size, False, False, parsed.seed)[address]
    place = np.random.default_rng([parsed.seed, 0])
    top, left = (int(place.integers(side - low.shape[-1] + 1)) for side in pairs.lr(parsed.image).shape[:2])
    whole = pairs.lr(parsed.image), pairs.hr(parsed.image)
    draws = [
        samples.low_patch(*whole, top, left, (False, False, False), np.random.default_rng(number))
        for number in range(parsed.draws)
    ]
    pixels = [_pixels(high), _pixels(low), *draws]
    shown = [image.repeat(factor, 0).repeat(factor, 1) for image in pixels for factor in [ENLARGED * high.shape[1] // len(image)]]
    return np.concatenate([np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for image in shown], 1)


def _pixels(patch: Tensor) -> np.ndarray:
    return np.rint(patch.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
