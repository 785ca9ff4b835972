"""ONNX in 8-bit integers: static quantisation with patches of photos, and what it loses and wins."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from timeit import timeit
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sr_nas.complexity.latency import processor
from sr_nas.contracts import SRNetwork
from sr_nas.data.sources import Pairs
from sr_nas.errors import UserError, first_line
from sr_nas.images.files import to_tensor
from sr_nas.inference.images import upscaler
from sr_nas.inference.optimize import CHECKED, OnnxSession, RuntimeNetwork, export_onnx, without_logging
from sr_nas.inference.tiles import pools_globally
from sr_nas.metrics import evaluate_set

PATCHES, SIDE = 16, 96
"""Number and side of the LR patches that calibrate."""


def export_int8(
    network: SRNetwork, name: str, metadata: Mapping[str, str], photos: Pairs, judged: Pairs, most: float
) -> tuple[bytes, dict[str, str]]:
    """Return a network as an ONNX file that computes in 8-bit integers, and what was measured of it beside float32.

    Convolutions compute in integers, which is where the time goes. All between them stays float32, above all the sum that runs
    through the blocks, where roundings would add up. So do the first and the last convolution, since a level of 8 bits is one of
    the image there, and grouped ones, which integers make slower. Activations are uint8 over the range that they had; weights
    int8 with a scale per output channel (Krishnamoorthi 2018, section 3), in 7 bits: processors without VNNI add pairs of
    products in 16 bits, which 8 bits would overflow.

    Args:
        network: in eval mode, on the CPU; left as it is.
        name: what to call the model in messages.
        metadata: of the model; what was measured is added.
        photos: their LR images calibrate.
        judged: photos on which at most ``most`` dB of PSNR may be lost.

    Raises:
        UserError: more is lost, or ONNX Runtime cannot quantise the model or run it at every size.
    """
    content = export_onnx(network, name)[0].content
    model = _quantised(content, name, photos)
    exact, integers = (RuntimeNetwork(network, OnnxSession(one, name)) for one in (content, model.SerializeToString()))
    with torch.inference_mode():
        for size in CHECKED:
            integers(torch.rand(size))
        before, after = (evaluate_set(upscaler(one, device="cpu"), judged, one.scale)["psnr"] for one in (exact, integers))
        lost = f"{after:.3f} dB, {before - after:.3f} dB less than float32"
        if not before - after <= most:
            why = " It pools over the whole image, where an error is one of every pixel." * pools_globally(network)
            raise UserError(f"int8 gives {lost}: more than --max_loss {most:g}. It is refused.{why}")
        x = torch.rand(1, 3, 144, 256)
        turns = [[timeit(partial(one, x), number=1) for one in (exact, integers)] for _ in range(10)]
    ratio = np.median([second / first for first, second in turns[1:]])
    measured = {
        "int8": f"{lost}, mean of {len(judged)} photos",
        "int8_time": f"{ratio:.2f} of float32's on {processor()}, {torch.get_num_threads()} threads, {exact.runtime}",
    }
    for key, value in (dict(metadata) | measured).items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString(), measured


def _quantised(content: bytes, name: str, photos: Pairs) -> Any:
    import onnx
    from onnxruntime import quantization

    model = onnx.load_model_from_string(content)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    grouped = [node for node in convolutions if any(one.name == "group" and one.i > 1 for one in node.attribute)]
    kept = [node.name for node in (*convolutions[:1], *grouped, *convolutions[-1:])]
    reader: Any = SimpleNamespace(get_next=partial(next, iter(_patches(photos)), None))
    try:
        with tempfile.TemporaryDirectory() as folder, without_logging():
            quantization.quantize_static(
                model,
                file := Path(folder) / "int8.onnx",
                reader,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=kept,
                activation_type=quantization.QuantType.QUInt8,
                per_channel=True,
                reduce_range=True,
            )
            model = onnx.load(file)
    except Exception as error:  # the quantiser raises whatever it meets in a graph
        raise UserError(f"ONNX Runtime cannot quantise {name}: {first_line(error)}") from error
    # It hands what a convolution takes to all other nodes in 8 bits too, the sum through the blocks among it.
    maker = {output: node for node in model.graph.node for output in node.output}
    integer = [node for node in model.graph.node if node.op_type == "Conv" and node.name not in kept]
    for node in [node for node in model.graph.node if node not in integer and "quantizelinear" not in node.op_type.lower()]:
        for index, taken in enumerate(node.input):
            if taken in maker and maker[taken].op_type == "DequantizeLinear":
                exact = maker[maker[taken].input[0]].input[0]
                node.input[index] = taken if maker.get(exact) in integer else exact
    return model


def _patches(photos: Pairs) -> list[dict[str, Any]]:
    """Return inputs from photos spread over the set, at places that are always the same."""
    draw, patches = random.Random(0), []
    for number in range(PATCHES):
        photo = photos.lr(number * len(photos) // PATCHES)
        top, left = (draw.randint(0, max(0, length - SIDE)) for length in photo.shape[:2])
        patches.append({"lr": to_tensor(photo[top : top + SIDE, left : left + SIDE]).numpy()})
    return patches
