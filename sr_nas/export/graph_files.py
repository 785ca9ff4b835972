"""Networks as ``.onnx`` and as ``.pt2`` (``torch.export``), written only if they compute what PyTorch computes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import build_network, describe_network
from sr_nas.inference.optimize import OPSET, OnnxSession, RuntimeNetwork, check_same, onnx_model, traced
from sr_nas.runs.files import replacing

METADATA = "sr_nas.json"
"""The extra file of a ``.pt2`` archive that holds the metadata, as one JSON object."""


def save_onnx(
    path: Path, network: SRNetwork, training: dict[str, Any] | None = None, opset: int = OPSET, half: bool = False
) -> str:
    """Write a network as ONNX (:func:`~sr_nas.inference.optimize.onnx_model`), and return a line that says what was checked.

    The metadata are those of :func:`~sr_nas.export.network_file.describe_network`, ``precision`` and ``opset``.

    Args:
        path: file to write, ``.onnx``.
        network: in eval mode, on the CPU; left as it is.
        training: JSON-ready summary of its training.
        opset: version of ONNX's operators.
        half: compute in float16, with weights of half the size.

    Raises:
        UserError: as :func:`~sr_nas.inference.optimize.onnx_model`; nothing is written then.
    """
    precision = "fp16" if half else "fp32"
    metadata = describe_network(network, training) | {"precision": precision, "opset": str(opset)}
    content, difference = onnx_model(network, f"the ONNX graph of {path.name}", metadata, opset, half)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return f"ONNX opset {opset}, {precision}; ONNX Runtime differs from PyTorch by at most {difference:.2g} on three sizes"


def load_onnx(path: Path) -> RuntimeNetwork:
    """Return the network of an exported ``.onnx`` file: ONNX Runtime executes it, on the CPU or with CUDA.

    Raises:
        UserError: ONNX Runtime is missing, or the file is missing, damaged or no export of ours.
    """
    session = OnnxSession(_content(path), str(path))
    return RuntimeNetwork(_plain(session.metadata, path), session, session.runtime, False, session.metadata)


def save_program(path: Path, network: SRNetwork, training: dict[str, Any] | None = None) -> str:
    """Write a network as a ``torch.export`` program that has been read back and compared; return a line that says so.

    Args:
        path: file to write, ``.pt2``.
        network: in eval mode, on the CPU; left as it is.
        training: JSON-ready summary of its training.

    Raises:
        UserError: PyTorch is too old, or the program would differ from the network; nothing is written then.
    """
    content = io.BytesIO()
    torch.export.save(traced(network), content, extra_files={METADATA: json.dumps(describe_network(network, training))})
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
        difference = check_same(network, load_program(temporary), "fp32", f"the program of {path.name}")
    return f"torch.export of PyTorch {torch.__version__}; it differs from the network by at most {difference:.2g} on three sizes"


def load_program(path: Path) -> RuntimeNetwork:
    """Return the network of an exported ``.pt2`` file, which runs on any device of PyTorch.

    PyTorch may run code of the file's author when it reads a program. Open only files whose author you trust.

    Raises:
        UserError: the file is missing, damaged, of another version of PyTorch, or no export of ours.
    """
    extra = {METADATA: ""}
    try:
        program = torch.export.load(io.BytesIO(_content(path)), extra_files=extra)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"PyTorch {torch.__version__} cannot read {path} as a program of torch.export: {error}") from error
    metadata = json.loads(extra[METADATA] or "{}")
    return RuntimeNetwork(_plain(metadata, path), _Program(program), f"torch.export {torch.__version__}", True, metadata)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    return path.read_bytes()


def _plain(metadata: Mapping[str, str], path: Path) -> SRNetwork:
    if "architecture" not in metadata or "settings" not in metadata:
        raise UserError(f"{path} was not exported by sr_nas: its metadata has no architecture and settings.")
    with torch.device("meta"):
        network: SRNetwork = build_network(metadata)
    return network


class _Program:
    """A ``torch.export.ExportedProgram``, moved to the device of its input."""

    def __init__(self, program: Any) -> None:
        self._program, self._device, self._module = program, torch.device("cpu"), program.module()

    def __call__(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 3, s H, s W]."""
        if x.device != self._device:
            self._program = move_to_device_pass(self._program, str(x.device))
            self._module, self._device = self._program.module(), x.device
        y: Tensor = self._module(x)
        return y
