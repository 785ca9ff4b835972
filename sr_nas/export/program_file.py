"""Networks as programs of ``torch.export``, of any batch, height and width."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.executed import ExecutedNetwork, executed, executed_metadata
from sr_nas.export.tracing import check_same, traced
from sr_nas.runs.files import replacing

METADATA = "sr_nas.json"
"""The extra file of the archive that holds the metadata, as one JSON object."""


def save_program(path: Path, network: SRNetwork, training: dict[str, Any] | None = None) -> str:
    """Write a network as a ``torch.export`` program, after it has been read back and seen to give what the network gives.

    Args:
        path: file to write, ``.pt2``.
        network: in eval mode, on the CPU; left as it is.
        training: JSON-ready summary of its training.

    Returns:
        A line that says what was checked.

    Raises:
        UserError: PyTorch is too old, or the program would differ from the network; nothing is written then.
    """
    content = io.BytesIO()
    torch.export.save(traced(network), content, extra_files={METADATA: json.dumps(executed_metadata(network, training))})
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
        difference = check_same(network, load_program(temporary), "fp32", f"the program of {path.name}")
    return f"torch.export of PyTorch {torch.__version__}; it differs from the network by at most {difference:.2g} on three sizes"


def load_program(path: Path) -> ExecutedNetwork:
    """Return the network of an exported ``.pt2`` file, which runs on any device of PyTorch.

    PyTorch may run code of the file's author when it reads a program. Open only files whose author you trust.

    Raises:
        UserError: the file is missing, damaged, of another version of PyTorch, or no export of ours.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    extra = {METADATA: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:
        raise UserError(f"PyTorch {torch.__version__} cannot read {path} as a program of torch.export: {error}") from error
    return executed(json.loads(extra[METADATA] or "{}"), _Program(program), f"torch.export {torch.__version__}", True, path)


class _Program:
    """A program, moved to where the input is."""

    def __init__(self, program: Any) -> None:
        self._program, self._device, self._module = program, torch.device("cpu"), program.module()

    def __call__(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, 3, s H, s W]."""
        if x.device != self._device:
            from torch.export.passes import move_to_device_pass

            self._program = move_to_device_pass(self._program, str(x.device))
            self._module, self._device = self._program.module(), x.device
        found: Tensor = self._module(x)
        return found
