"""What upscaling one large photo takes: a process of its own runs the command, and its peak is read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sr_nas.contracts import SRNetwork
from sr_nas.data.sources.sample import sample
from sr_nas.errors import UserError
from sr_nas.export.network_file import save_network
from sr_nas.images.files import write_image

_CHILD = """
import json, sys, time
from sr_nas.cli import main
start = time.perf_counter()
code = main(["inference", *sys.argv[1:]])
import torch
from sr_nas.runs.device import peak_memory, pick_device
device = pick_device("auto")
found = {"seconds": time.perf_counter() - start, "resident_bytes": peak_memory(torch.device("cpu"))}
found |= {"cuda_bytes": peak_memory(device)} if device.type == "cuda" else {}
print(json.dumps(found))
sys.exit(code)
"""

# On Linux a process starts with the peak of the one that started it. Between this process, which may be large, and the
# measured one stands one that is small.
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', *sys.argv[1:]]).returncode)"


def measure_inference(network: SRNetwork, megapixels: float, words: Sequence[str] = ()) -> dict[str, Any]:
    """Upscale a photo of 3:2 as ``sr-nas inference`` does, in a new process, and return what it took.

    The photo is the held-out sample photo, mirrored at its borders until it is large enough, and a PNG, as is the output.

    Args:
        network: what upscales it.
        megapixels: size of the photo, in 10^6 pixels.
        words: further options of the command, such as ``--tile 256``.

    Returns:
        ``{"width", "height", "scale", "seconds", "resident_bytes"}``: seconds from reading the network to the end; the
        peak resident memory of the process (``getrusage``; ``None`` on Windows), all libraries included. On a CUDA device
        ``"cuda_bytes"`` too, the most that was allocated there.

    Raises:
        UserError: less than one pixel, or the command failed; its words are passed on.
    """
    height, width = (int(math.sqrt(megapixels * 1e6 * ratio)) for ratio in (2 / 3, 3 / 2)) if megapixels > 0 else (0, 0)
    if not height or not width:
        raise UserError(f"--megapixels {megapixels}: the photo has at least one pixel.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_network(folder / "network.safetensors", network)
        write_image(folder / "photo.png", mirrored(sample(held_out=True, scale=1).hr(0), height, width))
        paths = ["-i", folder / "photo.png", "-o", folder / "out", "--model", folder / "network.safetensors"]
        command = [sys.executable, "-c", LAUNCHER, _CHILD, *map(str, paths), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the command ended with {done.returncode}: {(done.stderr + done.stdout).strip()[-2000:]}")
    return {"width": width, "height": height, "scale": network.scale, **json.loads(done.stdout.splitlines()[-1])}


def mirrored(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return (height)x(width)xC of an HxWxC image that is mirrored again and again at its borders."""
    rows, columns = (_there_and_back(length, wanted) for length, wanted in zip(pixels.shape[:2], (height, width), strict=True))
    return pixels[rows][:, columns]


def _there_and_back(length: int, wanted: int) -> np.ndarray:
    index = np.arange(wanted) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)
