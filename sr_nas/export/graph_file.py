"""A network as a graph of any batch, height and width, and the check that a file holds the same function."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import described, network_from
from sr_nas.inference.optimize import folded
from sr_nas.inference.tiles import pools_globally, receptive_radius
from sr_nas.runs.files import replacing

EXAMPLE = (2, 3, 40, 46)
"""The size a graph is traced at. No side of it is special to a network: none is 0 or 1 behind strides and poolings."""
CHECKED = ((1, 3, 17, 31), (2, 3, 40, 24), (1, 3, 9, 6))
"""The sizes a file is checked at: odd ones, another batch, and one below the reach of every network here."""
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest difference that is rounding, for outputs of 0..1: a fortieth of a step of 8 bits, and two and a half of them."""


class InHalf(nn.Module):
    """A network of float16 behind an input and before an output of float32, so that callers need not know.

    Args:
        network: changed in place.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, lr: Tensor) -> Tensor:
        """Map float32 to float32."""
        out: Tensor = self.network(lr.half()).float()
        return out


def traced(network: nn.Module, half: bool = False) -> Any:
    """Return a network, in eval mode, its BatchNorms folded, as a ``torch.export.ExportedProgram`` of any size.

    Batch, height and width are free from 1 on.

    Args:
        network: left as it is.
        half: compute in float16; input and output stay float32.

    Raises:
        UserError: PyTorch is too old.
    """
    from torch.fx.experimental import _config

    config: Any = _config

    if not hasattr(config, "backed_size_oblivious"):
        raise UserError(f"exporting a graph of any size needs PyTorch 2.7 or newer; this is {torch.__version__}.")
    module = folded(network)
    free = torch.export.Dim.DYNAMIC
    # Without this, PyTorch writes down that no side behind a stride or pooling may be 1, which refuses small images.
    with config.patch(backed_size_oblivious=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            InHalf(module).eval() if half else module, (torch.rand(EXAMPLE),), dynamic_shapes=({0: free, 2: free, 3: free},)
        )
    for node in program.graph.nodes:
        # Names the files and lines of the machine that exports.
        node.meta.pop("stack_trace", None)
    return program


def check_same(network: nn.Module, run: Callable[[Tensor], Tensor], precision: str, what: str) -> float:
    """Compare a file's graph with the network it was made of, at three sizes of noise in 0..1.

    Returns:
        The largest difference.

    Raises:
        UserError: it exceeds :data:`TOLERANCE`, or the graph does not run at a size.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for size in CHECKED:
        x, shown = torch.rand(size, generator=generator), "x".join(map(str, size))
        with torch.inference_mode():
            expected = network(x)
            try:
                found = run(x)
            except Exception as error:
                raise UserError(f"{what} does not run on an input of {shown}, so that no file is written: {error}") from error
        if found.shape != expected.shape:
            raise UserError(f"{what} gives {list(found.shape)} for an input of {shown}, PyTorch {list(expected.shape)}.")
        difference = (found - expected).abs().max().item()
        # Written so that NaN is refused too.
        if not difference <= TOLERANCE[precision]:
            advice = " Export it without --fp16." if precision == "fp16" else ""
            raise UserError(
                f"{what} differs from PyTorch by {difference:.2g} on an input of {shown}; up to {TOLERANCE[precision]:g} would "
                f"be rounding in {precision}. No file is written.{advice}"
            )
        largest = max(largest, difference)
    return largest


# MERGED sr_nas.export.graph_file: A network that another program runs: the graph of an exported file, behind the
# face of a network of ours.


class ExecutedNetwork(SRNetwork):
    """A graph in a file, which can be run and nothing else: it has no parameters, and is neither trained nor saved.

    Args:
        metadata: of the file, as :func:`executed_metadata` gives it.
        run: maps [N, 3, H, W], float32 on any device, to [N, 3, s H, s W], float32 on that device.
        runtime: what runs it, with its version.
        in_torch: whether PyTorch allocates its memory.

    Attributes:
        receptive_radius: of the network, since its layers cannot be seen (see :mod:`sr_nas.inference.tiles`).
        pools_globally: likewise.
    """

    def __init__(self, metadata: Mapping[str, str], run: Callable[[Tensor], Tensor], runtime: str, in_torch: bool) -> None:
        super().__init__()
        self.metadata, self.runtime, self.in_torch, self._run = dict(metadata), runtime, in_torch, run
        with torch.device("meta"):
            shapes = self.plain()
        # In a tuple, so that it is no submodule: on the meta device it has no values to move or to save.
        self._shapes = (shapes,)
        self.arch, self.scale, self.genotype = shapes.arch, shapes.scale, shapes.genotype
        self.receptive_radius = int(metadata["receptive_radius"])
        self.pools_globally = metadata["pools_globally"] == "true"

    def plain(self) -> SRNetwork:
        """Return the network that the file was made of, with other weights: what it costs can be counted on it."""
        return network_from(self.metadata["architecture"], json.loads(self.metadata["settings"]))

    def settings(self) -> dict[str, Any]:
        """The arguments that build the plain network again, JSON-ready."""
        return self._shapes[0].settings()

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``.

        On the meta device, where nothing is computed, the plain network stands in, so that memory can be estimated.

        Raises:
            UserError: under autocast, or where the file's runtime lacks the device.
        """
        if x.is_meta:
            return self._shapes[0](x)
        if torch.is_autocast_enabled(x.device.type):
            raise UserError("the precision of an exported graph was chosen when it was exported: run it as fp32.")
        return self._run(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> ExecutedNetwork:
        # Nothing of it ever changes, and sessions cannot be copied.
        return self


def countable(network: SRNetwork) -> SRNetwork:
    """Return a network whose layers can be counted: itself, or the plain one that an exported graph was made of."""
    return network.plain() if isinstance(network, ExecutedNetwork) else network


def executed_metadata(network: SRNetwork, training: dict[str, Any] | None) -> dict[str, str]:
    """Return what the file of a graph says: :func:`~sr_nas.export.network_file.described`, and what its layers would tell.

    Beyond that: ``parameters`` (before BatchNorms are folded), ``receptive_radius`` (LR pixels) and ``pools_globally``.
    """
    return described(network, training) | {
        "parameters": str(sum(parameter.numel() for parameter in network.parameters())),
        "receptive_radius": str(receptive_radius(network)),
        "pools_globally": str(pools_globally(network)).lower(),
    }


def executed(
    metadata: Mapping[str, str], run: Callable[[Tensor], Tensor], runtime: str, in_torch: bool, path: Path
) -> ExecutedNetwork:
    """Return the network of a file's graph, in eval mode.

    Raises:
        UserError: the file is no export of ours, or of an architecture that is not known here.
    """
    missing = [key for key in ("architecture", "settings", "receptive_radius", "pools_globally") if key not in metadata]
    if missing:
        raise UserError(f"{path} was not exported by sr_nas: its metadata has no '{missing[0]}'.")
    return ExecutedNetwork(metadata, run, runtime, in_torch).eval()


# MERGED sr_nas.export.graph_file: Networks as ONNX, of any batch, height and width, run by ONNX Runtime.


OPSET = 18
"""The exporter's own: others are converted from it or to it. TensorRT, DirectML and OpenVINO have long known it."""
INPUT, OUTPUT = "lr", "sr"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def save_onnx(
    path: Path, network: SRNetwork, training: dict[str, Any] | None = None, opset: int = OPSET, half: bool = False
) -> str:
    """Write a network as ONNX, after ONNX Runtime has been seen to give what PyTorch gives.

    The graph takes ``lr``, ``[batch, 3, height, width]``, and gives ``sr``, float32 RGB in 0..1 both, whatever it computes
    in. Its metadata are those of :func:`~sr_nas.export.graph_file.executed_metadata`, ``precision`` and ``opset``.

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


# MERGED sr_nas.export.graph_file: Networks as programs of ``torch.export``, of any batch, height and width.


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
