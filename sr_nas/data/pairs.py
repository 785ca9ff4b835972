"""Pairs of low- and high-resolution images, and random aligned patches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

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
        files: ``(HR, LR)`` of every pair as error messages name them; by default its name for both.
        mapped: the readers return files mapped into memory, so that keeping images wins nothing.
    """

    names: list[str]
    scale: int
    read_hr: Callable[[int], Image]
    read_lr: Callable[[int], Image] | None = None
    files: Sequence[tuple[str, str]] = ()
    mapped: bool = False
    _hr_sizes: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def hr(self, index: int) -> Image:
        """HR image cropped to a multiple of the scale, uint8 [H, W, 3] RGB; a UserError if it is unreadable or too small."""
        image = self.read_hr(index)
        if min(image.shape[:2]) < self.scale:
            raise UserError(f"{self.labels(index)[0]} has {pixels(image.shape)}: too small for scale {self.scale}.")
        image = modcrop(image, self.scale)
        self._hr_sizes[index] = (image.shape[0], image.shape[1])
        return image

    def lr(self, index: int) -> Image:
        """LR image, uint8 [H / scale, W / scale, 3] RGB; a UserError if it is unreadable or not of this size."""
        if self.read_lr is None:
            return downscale(self.hr(index), self.scale)
        image = self.read_lr(index)
        # HR is decoded for its size alone only if nobody asked for it before.
        height, width = self._hr_sizes[index] if index in self._hr_sizes else self.hr(index).shape[:2]
        expected = (height // self.scale, width // self.scale)
        if image.shape[:2] != expected:
            hr_label, lr_label = self.labels(index)
            raise UserError(
                f"LR {lr_label} has {pixels(image.shape)}, HR {hr_label} has {pixels((height, width))} "
                f"after cropping to a multiple of the scale: at scale {self.scale} LR must have {pixels(expected)}. "
                "Check the scale, and that HR and LR are of the same set."
            )
        return image

    def labels(self, index: int) -> tuple[str, str]:
        """Names of the HR and LR image in messages."""
        return self.files[index] if self.files else (self.names[index], self.names[index])


def pixels(shape: Sequence[int]) -> str:
    """Return ``"WIDTHxHEIGHT pixels"`` for an array shape that begins with height and width."""
    return f"{shape[1]}x{shape[0]} pixels"


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Random training patches, addressed by ``(index, draw)``: which pair, and the running number of the sample.

    Crop and flips come from a generator seeded by ``(seed, draw)`` alone, so that a sample depends neither on the number of
    workers nor on what was read before.

    Decoded pairs are kept in memory, first come, first served, up to a budget shared by the workers of a loader; the others
    are decoded for each patch, and pairs mapped from the pixel cache are not kept.

    Args:
        pairs: the images.
        gt_size: height and width of the HR patch in pixels.
        use_hflip: mirror left to right, half of the time.
        use_rot: mirror top to bottom and transpose, each half of the time; with ``use_hflip`` all eight orientations
            of the square are equally likely (BasicSR's option of that name).
        seed: of crops and flips.
        memory_budget: bytes of decoded pixels to keep.

    Raises:
        ValueError: ``gt_size`` is not a positive multiple of the scale.
    """

    def __init__(
        self, pairs: Pairs, gt_size: int, use_hflip: bool = True, use_rot: bool = True, seed: int = 0, memory_budget: int = 2**30
    ) -> None:
        if gt_size < 1 or gt_size % pairs.scale:
            raise ValueError(f"gt_size {gt_size} must be a positive multiple of the scale {pairs.scale}")
        self.pairs = pairs
        self.gt_size = gt_size
        self.use_hflip = use_hflip
        self.use_rot = use_rot
        self.seed = seed
        self.memory_budget = memory_budget
        self._memory: dict[int, tuple[Image, Image]] = {}
        self._memory_bytes = 0

    def __len__(self) -> int:
        """Number of pairs; each has any number of draws."""
        return len(self.pairs)

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return ``(lr, hr)``, float32 in 0..1, [3, gt_size / scale, gt_size / scale] and [3, gt_size, gt_size].

        Raises:
            UserError: the pair cannot be read, does not fit together, or is smaller than ``gt_size``.
        """
        index, draw = address
        lr, hr = self._pair(index)
        scale, lr_size = self.pairs.scale, self.gt_size // self.pairs.scale
        random = np.random.default_rng([self.seed, draw])
        top = int(random.integers(lr.shape[0] - lr_size + 1))
        left = int(random.integers(lr.shape[1] - lr_size + 1))
        # Drawn whether used or not: switching an option leaves the crops as they were.
        hflip, vflip, transpose = random.random(3) < 0.5
        orientation = (bool(hflip) and self.use_hflip, bool(vflip) and self.use_rot, bool(transpose) and self.use_rot)
        lr = lr[top : top + lr_size, left : left + lr_size]
        hr = hr[top * scale : top * scale + self.gt_size, left * scale : left * scale + self.gt_size]
        return _planes(orient(lr, *orientation)), _planes(orient(hr, *orientation))

    def _pair(self, index: int) -> tuple[Image, Image]:
        if index in self._memory:
            return self._memory[index]
        hr = self.pairs.hr(index)
        if min(hr.shape[:2]) < self.gt_size:
            raise UserError(
                f"{self.pairs.labels(index)[0]} has {pixels(hr.shape)}, too few for patches of gt_size {self.gt_size}. "
                f"Lower gt_size to {min(hr.shape[:2])} or less, or take the image out."
            )
        pair = (self.pairs.lr(index), hr)
        worker = get_worker_info()
        size, budget = sum(image.nbytes for image in pair), self.memory_budget // (worker.num_workers if worker else 1)
        if not self.pairs.mapped and self._memory_bytes + size <= budget:
            self._memory[index] = pair
            self._memory_bytes += size
        return pair


def orient(image: Image, hflip: bool, vflip: bool, transpose: bool) -> Image:
    """Mirror an image [H, W, C] left to right, then top to bottom, then swap its height and width, each if asked to."""
    if hflip:
        image = image[:, ::-1]
    if vflip:
        image = image[::-1]
    return image.swapaxes(0, 1) if transpose else image


def _planes(image: Image) -> Tensor:
    """uint8 [H, W, C] to float32 [C, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)).div_(255)
