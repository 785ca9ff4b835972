"""ncnn, which runs networks on phones: its two files, made by pnnx, and run by ncnn before anybody gets them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.inference.optimize import CHECKED, folded, require_packages, verify_graph

SMALLEST = 15
"""Pixels a side from which a strided network runs: what widens smaller images in PyTorch branches on the size."""
MOST_SECONDS = 600
"""Time that pnnx, and ncnn for one image size, may take; both need seconds."""
# In float32, as processors without float16 compute.
_RUN = """
import ncnn, numpy
net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
if net.load_param("net.param") or net.load_model("net.bin"):
    raise SystemExit(1)
outputs = []
for image in numpy.load("lr.npy"):
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    outputs.append(numpy.array(extractor.extract("out0")[1]))
numpy.save("sr.npy", outputs)
"""


class _InLayersOfNcnn(TorchFunctionMode):
    """Says in layers that ncnn has what it has no layer for, with the same result to the bit."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.repeat_interleave and kwargs == {"dim": 1}:
            copies = np.eye(int(args[0].shape[1]), dtype=np.float32).repeat(args[1], 0)  # by PyTorch they would be traced
            return F.conv2d(args[0], torch.from_numpy(copies)[..., None, None])
        if func is Tensor.clamp_min and not kwargs:
            return torch.clamp(args[0], args[1], torch.finfo(torch.float32).max)
        return func(*args, **(kwargs or {}))


def export_ncnn(network: SRNetwork, name: str, half: bool = False) -> tuple[bytes, bytes, str]:
    """Return the ``.param`` and the ``.bin`` of a network, and a line that says what was verified.

    Blob ``in0``, ``[3, H, W]`` RGB in 0..1 of any size, becomes ``out0``, ``[3, scale*H, scale*W]``.

    Args:
        network: in eval mode, on the CPU; left as it is.
        name: what to call the files in messages.
        half: weights are stored in float16.

    Raises:
        UserError: a package is missing, pnnx or ncnn lacks an operator, or ncnn does not give what the network gives.
    """
    require_packages("pnnx", "ncnn", kind="ncnn")
    strided = any(isinstance(module, nn.Conv2d) and max(module.stride) > 1 for module in network.modules())
    sizes = [size for size in CHECKED if not strided or min(size[2:]) >= SMALLEST]
    with tempfile.TemporaryDirectory() as folder:

        def call(*words: str) -> None:  # both end their process where they cannot go on
            try:
                done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", timeout=MOST_SECONDS)
            except subprocess.TimeoutExpired as error:
                late = f"{Path(words[0]).name} had not ended after {MOST_SECONDS} s, and was stopped"
                raise UserError(f"{late}. Try again with less other work on the machine.") from error
            if done.returncode:
                raise UserError(f"{Path(words[0]).name} ended with {done.returncode}: {(done.stderr.splitlines() or ['?'])[-1]}")

        def run(x: Tensor) -> Tensor:
            np.save(f"{folder}/lr.npy", x.numpy())
            call(sys.executable, "-c", _RUN)
            return torch.from_numpy(np.load(f"{folder}/sr.npy"))

        with torch.no_grad(), warnings.catch_warnings(), _InLayersOfNcnn():
            warnings.simplefilter("ignore")
            torch.jit.trace(folded(network), torch.rand(1, 3, 40, 46), check_trace=False).save(f"{folder}/net.pt")
        # A side that differs between two shapes is free.
        shapes = ("inputshape=[1,3,40,46]", "inputshape2=[1,3,24,32]", f"fp16={int(half)}")
        call(importlib.import_module("pnnx").EXEC_PATH, "net.pt", *shapes, "ncnnparam=net.param", "ncnnbin=net.bin")
        difference = verify_graph(network, run, "fp16" if half else "fp32", name, sizes)
        graph, weights = (Path(folder, file).read_bytes() for file in ("net.param", "net.bin"))
    made = f"{version('ncnn')} by pnnx {version('pnnx')}, weights in {'float16' if half else 'float32'}; "
    least = f"; images need {SMALLEST} pixels a side" * strided
    return graph, weights, f"{made}differs from the network by at most {difference:.2g} on {len(sizes)} sizes{least}"
