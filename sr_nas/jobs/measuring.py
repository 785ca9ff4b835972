"""One image through one contestant: its scores, time and memory, and where it differs from bicubic."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_nas import __version__
from sr_nas.errors import UserError
from sr_nas.images.files import write_image
from sr_nas.jobs.benchmark_sets import BenchmarkSet
from sr_nas.jobs.contestants import Contestant
from sr_nas.metrics.benchmark import Upscale, bicubic, score
from sr_nas.metrics.perceptual import Metric
from sr_nas.report.crops import extreme_gains
from sr_nas.runs.device import is_out_of_memory, peak_memory, reset_peak_memory
from sr_nas.runs.measurements import Measurements, digest, file_digest

WARM_UP = 32
"""Side in LR pixels of the image that goes first, untimed."""

MEMORY = {
    "cuda": "largest memory that PyTorch allocated on the GPU while one image was upscaled, weights included",
    "reset": "largest resident memory of the whole process while one image was upscaled: Python, PyTorch and the images included",
    "process": "largest resident memory of the process since its start, so a row may show what an earlier one took",
}
SECONDS = "from the LR image to the 8-bit SR image, both in main memory; mean over the images"


@dataclass(frozen=True)
class Bench:
    """What all measurements of a benchmark have in common.

    Attributes:
        device: where networks run.
        kept: what has been measured before.
        perceptual: further metrics by name.
        crop: side of the crops in HR pixels.
        images: folder of the SR images, or ``None`` to keep none.
    """

    device: torch.device
    kept: Measurements
    perceptual: dict[str, Metric]
    crop: int
    images: Path | None
    _warm: set[Contestant] = field(default_factory=set, init=False)

    def machine(self) -> str:
        """The device and its threads: times are its own."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads()
        return f"{self.device.type}, {platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}"

    def versions(self) -> dict[str, str]:
        """What else decides a result."""
        return {"sr_nas": __version__, "torch": str(torch.__version__)}

    def memory(self) -> str:
        """What the figures of memory are here."""
        if self.device.type == "cuda":
            return MEMORY["cuda"]
        return MEMORY["reset" if reset_peak_memory(self.device) else "process"]

    def key(self, contestant: Contestant, bench_set: BenchmarkSet, index: int) -> str:
        """What a measurement is of: it is made again where any of this differs."""
        return digest(contestant.identity, bench_set.scale, bench_set.contents[index], self.machine(), self.versions())

    def image_file(self, contestant: Contestant, bench_set: BenchmarkSet, index: int) -> Path | None:
        """Where the SR image is kept."""
        if self.images is None:
            return None
        return self.images / contestant.name / f"{bench_set.name}_x{bench_set.scale}" / f"{bench_set.pairs.names[index]}.png"

    def recall(self, contestant: Contestant, bench_set: BenchmarkSet, index: int, judges: bool) -> dict[str, Any] | None:
        """Return the record of an image if it holds all that is asked for now; else it is to be measured."""
        record = self.kept.get(self.key(contestant, bench_set, index))
        if record is None or any(name not in record for name in self.perceptual):
            return None
        if judges and record.get("crops", {}).get("side") != self.crop:
            return None
        file = self.image_file(contestant, bench_set, index)
        if file is not None and (not file.is_file() or file_digest(file) != record.get("file")):
            return None
        return record

    def measure(
        self, contestant: Contestant, upscale: Upscale, bench_set: BenchmarkSet, index: int, judges: bool
    ) -> dict[str, Any]:
        """Measure and keep an image.

        Args:
            contestant: what is measured.
            upscale: the same as a function.
            bench_set: the set.
            index: of the image.
            judges: whether to look for the crops of its best and worst against bicubic.

        Raises:
            UserError: the image cannot be read or scored, or does not fit in memory.
        """
        try:
            return self._measure(contestant, upscale, bench_set, index, judges)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            tile = (
                "" if contestant.network is None else f" Tiles take less: set models.{contestant.name}.tile, to 256 for example."
            )
            raise UserError(
                f"the memory does not suffice to read, upscale and score {bench_set.pairs.names[index]}.{tile}"
            ) from error

    def _measure(
        self, contestant: Contestant, upscale: Upscale, bench_set: BenchmarkSet, index: int, judges: bool
    ) -> dict[str, Any]:
        name, scale = bench_set.pairs.names[index], bench_set.scale
        hr, lr = bench_set.pairs.hr(index), bench_set.pairs.lr(index)
        if contestant not in self._warm:
            # Libraries prepare themselves at their first call; its time is no image's.
            upscale(np.full((WARM_UP, WARM_UP, 3), 128, np.uint8), scale)
            self._warm.add(contestant)
        reset_peak_memory(self.device)
        start = time.perf_counter()
        sr = upscale(lr, scale)
        record: dict[str, Any] = {"seconds": time.perf_counter() - start}
        # On a GPU only PyTorch's own memory is known: that of another runtime is not stated.
        known = self.device.type != "cuda" or contestant.in_torch()
        record["memory_bytes"] = peak_memory(self.device) if known else None
        record |= score(sr, hr, scale, name)
        record |= {metric: compare(sr, hr) for metric, compare in self.perceptual.items()}
        if judges:
            record["crops"] = {"side": self.crop, **extreme_gains(sr, bicubic(lr, scale), hr, scale, self.crop)}
        file = self.image_file(contestant, bench_set, index)
        if file is not None:
            write_image(file, sr)
            record["file"] = file_digest(file)
        about = {"model": contestant.name, "set": bench_set.name, "scale": scale, "image": name}
        return self.kept.add(self.key(contestant, bench_set, index), about | record)
