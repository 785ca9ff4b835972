"""basicsr's paired training set, for measuring beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from sr_nas.bridge.basicsr_import import import_basicsr


class BasicsrPairs(Dataset[tuple[Tensor, Tensor]]):
    """``PairedImageDataset`` in training, with flips and rotations, addressed by ``(index, draw)``; ``draw`` changes nothing.

    Args:
        hr: folder of the HR images, or of their LMDB (its name then ends in ``.lmdb``).
        lr: the same of the LR images, which have the names of HR.
        scale: HR pixels per LR pixel and side.
        gt_size: height and width of the HR patch in pixels.
        backend: ``"disk"`` or ``"lmdb"``.

    Raises:
        UserError: basicsr is not installed.
    """

    def __init__(self, hr: Path, lr: Path, scale: int, gt_size: int, backend: str) -> None:
        self._arguments = (hr, lr, scale, gt_size, backend)
        import_basicsr()
        from basicsr.data.paired_image_dataset import PairedImageDataset

        options = {"phase": "train", "scale": scale, "gt_size": gt_size, "use_hflip": True, "use_rot": True}
        places = {"dataroot_gt": str(hr), "dataroot_lq": str(lr), "io_backend": {"type": backend}}
        self._dataset = PairedImageDataset({**options, **places})

    def __reduce__(self) -> tuple[Any, ...]:
        # A spawned worker finds basicsr's classes only after its import has been mended there.
        return BasicsrPairs, self._arguments

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return ``(lr, hr)``, float32 in 0..1, [3, gt_size / scale, gt_size / scale] and [3, gt_size, gt_size]."""
        item: dict[str, Any] = self._dataset[address[0]]
        return item["lq"], item["gt"]
