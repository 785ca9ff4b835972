"""Networks upscaling an image by each engine, alone and beside another process, and a photo by the command."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring.timing import Step, busy_process, in_turns, peak_apart, peak_resident
from sr_nas.cli import main as sr_nas
from sr_nas.complexity.costs import count_macs
from sr_nas.contracts import SRNetwork
from sr_nas.data.sources import sample
from sr_nas.errors import UserError
from sr_nas.export.model import build_by_name, load_model
from sr_nas.export.network_file import save_network
from sr_nas.images.files import write_image
from sr_nas.inference.images import upscale_image
from sr_nas.inference.optimize import for_inference
from sr_nas.registry import NETWORKS

SIX: dict[str, tuple[str, dict[str, Any]]] = {
    "IMDN, published": ("IMDN", {}),
    "IMDN, a searched genotype": ("IMDN", {"genotype": "dsconv_3x3,conv_3x3,dsconv_3x3_bn,dsconv_5x5"}),
    "IMDN, nf 32, 4 separable blocks": (
        "IMDN",
        {"nf": 32, "num_blocks": 4, "genotype": "dil_dsconv_3x3_bn,dil_dsconv_3x3,dsconv_5x5_bn,dil_dsconv_5x5_bn"},
    ),
    "IMDN, nf 16": ("IMDN", {"nf": 16}),
    "DLSR, published": ("DLSR", {}),
    "SRVGGNetCompact of BasicSR": ("basicsr.SRVGGNetCompact", {}),
}
"""Name -> architecture and settings of what ``--six`` measures, with fresh weights, x2."""


def inferring(file: str, engine: Any, size: tuple[int, int], device: torch.device) -> Step:
    """One image through a network in a file: ``plain`` PyTorch, or an engine of ``sr-nas inference``."""
    network = load_model(file).eval().to(device)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    if engine != "plain":
        executed, _ = for_inference(network, engine, device)
        return lambda: upscale_image(executed, pixels, device=device)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device) / 255

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return network(image)

    return plain


def inference(parsed: argparse.Namespace) -> dict[str, Any]:
    """Networks on one LR image: plain PyTorch, PyTorch as ``inference`` prepares it, and ONNX Runtime."""
    if parsed.six:
        networks = {name: NETWORKS.get(arch)(scale=2, **settings) for name, (arch, settings) in SIX.items()}
    else:
        settings = {} if parsed.genotype is None else {"genotype": parsed.genotype}
        one = load_model(parsed.model) if parsed.model else build_by_name(parsed.arch, settings, scale=2)
        networks = {one.arch: one}
    results: dict[str, Any] = {}
    for name, network in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            save_network(file := Path(folder) / "network.safetensors", network)
            if parsed.megapixels:
                results[f"photo, {name}"] = photo(str(file), parsed.megapixels)
            else:
                results |= engines(name, network, str(file), parsed)
    return results


def engines(name: str, network: SRNetwork, file: str, parsed: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of every engine with a network, which is in a file too; and, if asked for, beside a busy process."""
    device = torch.device(parsed.device)
    steps, seconds = {}, {}
    for engine in ("plain", "torch", "onnxruntime") if device.type == "cpu" else ("plain", "torch"):
        start = time.perf_counter()
        steps[engine] = inferring(file, engine, parsed.size, device)
        seconds[engine] = time.perf_counter() - start
    height, width = parsed.size
    macs = count_macs(network, (height, width))[0][""]
    title = f"{name}, LR {width}x{height}, {macs / 1e9:.2f} G multiply-adds"
    results = {title: in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)}
    for engine, row in results[title].items():
        row["gflops"], row["prepare"] = 2e-9 * macs / row["seconds"], seconds[engine]
        if not parsed.six:
            row["peak_bytes"] = peak_apart(parsed.threads, inferring, file, engine, parsed.size, device)
    if parsed.beside:
        with busy_process():
            results[f"{title}, beside a busy process"] = in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)
    return results


def photo(model: str, megapixels: float) -> dict[str, dict[str, float | None]]:
    """Time and peak memory of ``sr-nas inference`` on a photo of 3:2 with so many million pixels, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return {"sr-nas inference": pool.submit(_upscale_photo, model, megapixels).result()}


def _upscale_photo(model: str, megapixels: float) -> dict[str, float | None]:
    height, width = (max(1, round((megapixels * 1e6 * ratio) ** 0.5)) for ratio in (2 / 3, 3 / 2))
    pixels = sample(held_out=True, scale=1).hr(0)
    pixels = np.pad(pixels, ((0, max(0, height - len(pixels))), (0, max(0, width - pixels.shape[1])), (0, 0)), "symmetric")
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "photo.png", pixels[:height, :width])
        del pixels
        start = time.perf_counter()
        if sr_nas(["inference", "-i", f"{folder}/photo.png", "-o", f"{folder}/out", "--model", model]):
            raise UserError("inference failed; its message stands above.")
        return {"seconds": time.perf_counter() - start, "peak_bytes": peak_resident()}
