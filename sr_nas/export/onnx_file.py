"""Networks as ONNX, of any batch, height and width, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.executed import ExecutedNetwork, executed, executed_metadata
from sr_nas.export.tracing import check_same, traced
from sr_nas.runs.files import replacing

OPSET = 18
"""The exporter's own: others are converted from it or to it. TensorRT, DirectML and OpenVINO have long known it."""
INPUT, OUTPUT = "lr", "sr"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def save_onnx(
    path: Path, network: SRNetwork, training: dict[str, Any] | None = None, opset: int = OPSET, half: bool = False
) -> str:
    """Write a network as ONNX, after ONNX Runtime has been seen to give what PyTorch gives.

    The graph takes ``lr``, ``[batch, 3, height, width]``, and gives ``sr``, float32 RGB in 0..1 both, whatever it computes
    in. Its metadata are those of :func:`~sr_nas.export.executed.executed_metadata`, ``precision`` and ``opset``.

    Args:
        path: file to write, ``.onnx``.
        network: in eval mode, on the CPU; left as it is.
        training: JSON-ready summary of its training.
        opset: version of ONNX's operators.
        half: compute in float16, with weights of half the size.

    Returns:
        A line that says what was checked, with the opset.

    Raises:
        UserError: a package is missing, PyTorch is too old, the opset is none that the exporter writes, or the file would
            differ from the network; nothing is written then.
    """
    _need("onnx", "onnxscript", "onnxruntime")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise UserError(
            f"--opset {opset}: PyTorch's exporter writes {OPSET} or newer, and the onnx installed here knows {newest}."
        )
    precision = "fp16" if half else "fp32"
    program = traced(network, half)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            )
    except Exception as error:
        raise UserError(f"PyTorch cannot write this network as ONNX with opset {opset}: {error}") from error
    graph = exported.model
    if graph.opset_imports[""] != opset:
        raise UserError(f"--opset {opset}: the exporter of PyTorch {torch.__version__} writes {graph.opset_imports['']}.")
    for node in graph.graph.all_nodes():
        # Names the files and lines of the machine that exports.
        node.metadata_props.clear()
    graph.metadata_props.update(executed_metadata(network, training) | {"precision": precision, "opset": str(opset)})
    with replacing(path) as temporary:
        exported.save(temporary, external_data=False)
        difference = check_same(network, _Session(temporary), precision, f"the ONNX graph of {path.name}")
    return f"ONNX opset {opset}, {precision}; ONNX Runtime differs from PyTorch by at most {difference:.2g} on three sizes"


def load_onnx(path: Path) -> ExecutedNetwork:
    """Return the network of an exported ``.onnx`` file: ONNX Runtime runs it, on the CPU or with CUDA.

    Raises:
        UserError: ONNX Runtime is missing, or the file is missing, damaged or no export of ours.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    _need("onnxruntime")
    import onnxruntime

    session = _Session(path)
    return executed(session.metadata, session, f"onnxruntime {onnxruntime.__version__}", False, path)


def _need(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be installed for ONNX files: pip install 'sr_nas[onnx]'")


class _Session:
    """ONNX Runtime on a file, where the input is; with as many threads as PyTorch has."""

    def __init__(self, path: Path) -> None:
        self._path, self._content, self._sessions = path, path.read_bytes(), {}  # type: ignore[var-annotated]
        self.metadata: dict[str, str] = dict(self._on("cpu").get_modelmeta().custom_metadata_map)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W], float32 on any device, to the output on that device."""
        session = self._on(x.device.type)
        try:
            (found,) = session.run([OUTPUT], {INPUT: x.detach().cpu().contiguous().numpy()})
        except Exception as error:
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(found).to(x.device)

    def _on(self, device: str) -> Any:
        if device not in self._sessions:
            import onnxruntime

            provider = PROVIDERS.get(device)
            if provider not in onnxruntime.get_available_providers():
                advice = "install onnxruntime-gpu in place of onnxruntime, or " if device == "cuda" else ""
                raise UserError(
                    f"{self._path}: the ONNX Runtime installed here does not run on {device}; {advice}use --num_gpu 0."
                )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            try:
                session = onnxruntime.InferenceSession(
                    self._content, options, providers=list(dict.fromkeys((provider, PROVIDERS["cpu"])))
                )
            except Exception as error:
                raise UserError(f"{self._path} cannot be read as ONNX: {error}") from error
            if provider not in session.get_providers():
                raise UserError(
                    f"{self._path}: ONNX Runtime could not start {provider}; its messages say why. Or use --num_gpu 0."
                )
            self._sessions[device] = session
        return self._sessions[device]
