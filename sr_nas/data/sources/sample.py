"""A few photos that every installation has: they lie in scikit-image's wheel. For first steps, tests and pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sr_nas.data.files import file_pairs
from sr_nas.data.pairs import Pairs
from sr_nas.errors import UserError
from sr_nas.registry import PAIRS

# Colour photos with detail in most of their area. The others of the wheel are grey or drawn, show the same scene twice
# (motorcycle_right would leak one half of a split into the other), or are mostly black or blurred (hubble_deep_field, retina).
PHOTOS = ("astronaut.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
HELD_OUT = ("chelsea.png",)


@PAIRS.register("sample")
def sample(held_out: bool = False, *, scale: int) -> Pairs:
    """Photos that ship with scikit-image, five for training and one held out; nothing is downloaded.

    Args:
        held_out: only the held-out photo, for validation.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: scikit-image is not installed, or lacks one of the photos.
    """
    # Not importlib.resources, which would import the package.
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise UserError("the sample photos come with scikit-image, which is not installed: pip install 'scikit-image>=0.22'.")
    folder = Path(found.submodule_search_locations[0]) / "data"
    files = [folder / name for name in (HELD_OUT if held_out else PHOTOS)]
    for file in files:
        if not file.is_file():
            raise UserError(f"the sample photo {file} is missing: the wheels of scikit-image 0.22 and later hold it.")
    return file_pairs([file.stem for file in files], files, None, scale)
