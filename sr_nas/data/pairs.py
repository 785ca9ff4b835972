"""Low- and high-resolution images that belong together, whatever they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sr_nas.errors import UserError
from sr_nas.images.resize import downscale, modcrop

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pairs:
    """An ordered set of image pairs, read when asked for. It can be pickled if its readers can.

    Attributes:
        names: one name per pair, without folder and extension.
        scale: HR pixels per LR pixel and side.
        read_hr: index -> HR image as stored, uint8 [H, W, 3], RGB.
        read_lr: index -> LR image, uint8 [H // scale, W // scale, 3], RGB; ``None`` makes LR from HR.
        files: ``(HR, LR)`` of every pair as an error message names them; by default its name for both.
        mapped: the readers return files mapped into memory: reading again costs nothing, and keeping them wins nothing.
    """

    names: list[str]
    scale: int
    read_hr: Callable[[int], Image]
    read_lr: Callable[[int], Image] | None = None
    files: Sequence[tuple[str, str]] = ()
    mapped: bool = False
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def hr(self, index: int) -> Image:
        """HR image cropped to a multiple of the scale, uint8 [H, W, 3], RGB, 0..255.

        Raises:
            UserError: it cannot be read, or has fewer pixels than one LR pixel covers.
        """
        image = self.read_hr(index)
        if min(image.shape[:2]) < self.scale:
            raise UserError(f"{self.hr_file(index)} has {pixels(image.shape)}: too small for scale {self.scale}.")
        image = modcrop(image, self.scale)
        self._sizes[index] = (image.shape[0], image.shape[1])
        return image

    def lr(self, index: int) -> Image:
        """LR image, uint8 [H / scale, W / scale, 3], RGB, 0..255.

        Raises:
            UserError: it cannot be read, or its size is not that of HR divided by the scale.
        """
        if self.read_lr is None:
            return downscale(self.hr(index), self.scale)
        image = self.read_lr(index)
        # HR is decoded for its size alone only if nobody asked for it before.
        height, width = self._sizes[index] if index in self._sizes else self.hr(index).shape[:2]
        expected = (height // self.scale, width // self.scale)
        if image.shape[:2] != expected:
            raise UserError(
                f"LR {self.lr_file(index)} has {pixels(image.shape)}, HR {self.hr_file(index)} has {pixels((height, width))} "
                f"after cropping to a multiple of the scale: at scale {self.scale} LR must have {pixels(expected)}. "
                "Check the scale, and that HR and LR are of the same set."
            )
        return image

    def hr_file(self, index: int) -> str:
        """What to call the HR image in a message."""
        return self.files[index][0] if self.files else self.names[index]

    def lr_file(self, index: int) -> str:
        """What to call the LR image in a message."""
        return self.files[index][1] if self.files else self.names[index]


def pixels(shape: Sequence[int]) -> str:
    """Return ``"WIDTHxHEIGHT pixels"`` of an array shape that begins with height and width."""
    return f"{shape[1]}x{shape[0]} pixels"
