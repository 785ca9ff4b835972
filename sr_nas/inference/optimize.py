"""Networks made ready to run: folded layers, and graphs of any size that ``torch.export`` or ONNX Runtime executes."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.fx.experimental import _config as symbolic_shapes
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sr_nas.contracts import SRNetwork, reparameterized
from sr_nas.errors import UserError, first_line, is_out_of_memory
from sr_nas.inference.tiles import pools_globally, tile_overlap
from sr_nas.registry import NETWORKS
from sr_nas.runs.device import Precision

EXAMPLE = (2, 3, 40, 46)
"""Input shape at which a graph is traced: torch.export specialises on sides of 0 and 1, and none shrinks to them on the way."""
CHECKED = ((1, 3, 17, 31), (2, 3, 40, 24), (1, 3, 9, 6))
"""Input shapes at which a graph is compared: odd ones, another batch, and one smaller than every network's receptive field."""
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest difference that counts as rounding, for outputs of 0..1: a fortieth of a level of 8 bits, and two and a half."""
OPSET = 18
"""The exporter's native opset; TensorRT, DirectML and OpenVINO have supported it for long."""
GRAPH: dict[str, Any] = {"input_names": ["lr"], "output_names": ["sr"], "opset_version": OPSET, "verbose": False}
FREE = {0: "batch", 2: "height", 3: "width"}
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
Engine = Literal["auto", "torch", "onnxruntime"]
Module = TypeVar("Module", bound=nn.Module)


def folded(network: Module) -> Module:
    """Return a copy, in eval mode, with branches re-parameterised and BatchNorms folded into the convolution before them.

    In eval mode a BatchNorm is a factor and a summand per channel, which a convolution's weights and bias can hold (Jacob et
    al. 2018, section 3.2); one that follows no convolution in a Sequential stays. The output is the same to rounding: within
    1e-5 in float32 for outputs around 0..1.
    """
    copy = reparameterized(network).eval()
    for chain in [module for module in copy.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(chain) - 2, -1, -1):
            conv, norm = chain[index], chain[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                chain[index] = fuse_conv_bn_eval(conv, norm)
                del chain[index + 1]
    return copy


class HalfPrecision(nn.Module):
    """A network that computes in float16 between a float32 input and a float32 output; the network is changed in place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, lr: Tensor) -> Tensor:
        """Map float32 to float32."""
        sr: Tensor = self.network(lr.half()).float()
        return sr


def traced(network: nn.Module, half: bool = False) -> Any:
    """Return a network, folded and in eval mode, as a ``torch.export.ExportedProgram`` of any batch, height and width from 1 on.

    Raises:
        UserError: PyTorch is too old, or cannot do that with this network.
    """
    config: Any = symbolic_shapes
    if not hasattr(config, "backed_size_oblivious"):
        raise UserError(f"exporting a graph of any size needs PyTorch 2.7 or newer; this is {torch.__version__}.")
    module, free = folded(network), torch.export.Dim.DYNAMIC
    # Without backed_size_oblivious, PyTorch asserts that no side behind a stride or pooling is 1, which refuses small images.
    with config.patch(backed_size_oblivious=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: free, 2: free, 3: free},)
        try:
            program = torch.export.export(
                HalfPrecision(module).eval() if half else module, (torch.rand(EXAMPLE),), dynamic_shapes=shapes
            )
        except Exception as error:  # torch.export raises whatever it meets in a network of others
            raise UserError(f"PyTorch cannot make a graph of any size of this network: {first_line(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of the machine that exports
    return program


def verify_graph(
    network: nn.Module, run: Callable[[Tensor], Tensor], precision: str, name: str, sizes: Sequence[Sequence[int]] = CHECKED
) -> float:
    """Return the largest difference between a graph and the network it was made of, on noise in 0..1 of some sizes.

    Raises:
        UserError: it exceeds :data:`TOLERANCE`, or the graph does not run at a size.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for size in sizes:
        x, shape = torch.rand(size, generator=generator), "x".join(map(str, size))
        with torch.inference_mode():
            expected = network(x)
            try:
                difference = (run(x) - expected).abs().max().item()
            except Exception as error:  # ONNX Runtime's errors have no common base
                raise UserError(f"{name} does not run on an input of {shape}, and is refused: {error}") from error
        if not difference <= TOLERANCE[precision]:  # so NaN is refused too
            advice = " Export it without --fp16." if precision == "fp16" else ""
            raise UserError(
                f"{name} differs from PyTorch by {difference:.2g} on an input of {shape}; up to {TOLERANCE[precision]:g} would "
                f"be rounding in {precision}. It is refused.{advice}"
            )
        largest = max(largest, difference)
    return largest


class Program:
    """A ``torch.export.ExportedProgram``, moved to the device of its input: [N, 3, H, W] to [N, 3, s H, s W]."""

    runtime = f"torch.export {torch.__version__}"
    in_torch = True

    def __init__(self, program: Any) -> None:
        self._program, self._device, self._module = program, torch.device("cpu"), program.module()

    def __call__(self, x: Tensor) -> Tensor:
        if x.device != self._device:
            self._program = move_to_device_pass(self._program, str(x.device))
            self._module, self._device = self._program.module(), x.device
        y: Tensor = self._module(x)
        return y


class OnnxSession:
    """ONNX Runtime on a serialised model, on the device of its input: float32 [N, 3, H, W] to [N, 3, s H, s W].

    Raises:
        UserError: it is no ONNX model, or ONNX Runtime is missing or lacks the device; ``name`` is what messages call it.
    """

    in_torch = False

    def __init__(self, content: bytes, name: str) -> None:
        require_packages("onnxruntime")
        import onnxruntime

        self.content, self._name, self._sessions = content, name, {}  # type: ignore[var-annotated]
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        try:
            self.metadata: dict[str, str] = dict(self.on("cpu").get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError as error:
            raise UserError(f"{name} is damaged: its metadata are not UTF-8.") from error

    def __call__(self, x: Tensor) -> Tensor:
        try:
            (y,) = self.on(x.device.type).run(None, {"lr": x.detach().cpu().contiguous().numpy()})
        except Exception as error:  # as above; memory that runs out is told by the text alone
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(y).to(x.device)

    def on(self, device: str) -> Any:
        """Return the ``onnxruntime.InferenceSession`` on a device, ``"cpu"`` or ``"cuda"``."""
        if device not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
            # The CPU, always there, takes what CUDA has no kernel for.
            providers = [provider for kind, provider in PROVIDERS.items() if kind in (device, "cpu")]
            try:
                with warnings.catch_warnings():  # of a missing provider, which is an error below
                    warnings.simplefilter("ignore")
                    session = onnxruntime.InferenceSession(self.content, options, providers=providers)
            except Exception as error:  # as above
                raise UserError(f"{self._name} cannot be read as ONNX: {first_line(error)}") from error
            if PROVIDERS.get(device) not in session.get_providers():
                advice = "install onnxruntime-gpu in place of onnxruntime, or " if device == "cuda" else ""
                raise UserError(f"{self._name}: this ONNX Runtime does not run on {device}; {advice}use --num_gpu 0.")
            self._sessions[device] = session
        return self._sessions[device]


def require_packages(*packages: str, kind: str = "ONNX") -> None:
    """Raise UserError where a package for a kind of file is missing."""
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise UserError(f"{' and '.join(missing)} must be installed for {kind}: pip install 'sr_nas[{kind.lower()}]'")


@contextmanager
def without_logging() -> Iterator[None]:
    """Keep PyTorch's log of an export or of a file that it cannot read off the terminal: an error says what matters."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)


def read_onnx(path: Path) -> bytes:
    """Return the model in an ``.onnx`` file, with the weights that lie in other files beside it.

    Raises:
        UserError: such a file is missing, damaged, or outside the model's folder, or the package onnx is missing.
    """
    content, folder = path.read_bytes(), path.parent.resolve()
    if b"location" not in content:  # the key under which a tensor names its file
        return content
    require_packages("onnx")
    import onnx
    from onnx.external_data_helper import _get_all_tensors, load_external_data_for_tensor, uses_external_data

    try:
        model = onnx.load_model_from_string(content)
        for tensor in [tensor for tensor in _get_all_tensors(model) if uses_external_data(tensor)]:
            location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            file = (folder / location).resolve()
            if not file.is_relative_to(folder):
                raise UserError(f"{path} is refused: it names {location}, outside its own folder, as the file of its weights.")
            if not file.is_file():
                raise UserError(f"{path} keeps its weights in {file}, which does not exist. Keep the two files together.")
            load_external_data_for_tensor(tensor, str(folder))
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
        return model.SerializeToString()
    except UserError:
        raise
    except Exception as error:  # onnx's and protobuf's have no common base
        raise UserError(f"{path} cannot be read as ONNX: {first_line(error)}") from error


def _written(*arguments: Any, **how: Any) -> Any:
    try:
        with warnings.catch_warnings(), without_logging(), torch.no_grad():
            warnings.simplefilter("ignore")
            return cast(Any, torch.onnx.export)(*arguments, **GRAPH, **how)
    except Exception as error:  # the exporter raises whatever it meets in a graph
        raise UserError(f"PyTorch cannot write this network as ONNX: {error}") from error


def export_onnx(
    network: SRNetwork, name: str, metadata: Mapping[str, str] | None = None, half: bool = False
) -> tuple[OnnxSession, float]:
    """Export a network to ONNX in memory, check it, and return a session and its largest difference from PyTorch.

    The graph maps ``lr``, ``[batch, 3, height, width]``, to ``sr``, float32 RGB in 0..1 both.

    Args:
        network: in eval mode, on the CPU; left as it is.
        name: what to call the model in messages.
        metadata: of the model.
        half: compute in float16 between float32 input and output, with weights of half the size.

    Raises:
        UserError: a package is missing, PyTorch is too old, or the model does not give what the network gives.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    exported = _written(traced(network, half), (), dynamo=True, dynamic_shapes=(FREE,))
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # names files of the machine that exports
    exported.model.metadata_props.update(metadata or {})
    session = OnnxSession(exported.model_proto.SerializeToString(), name)
    return session, verify_graph(network, session, "fp16" if half else "fp32", name)


def record_onnx(network: SRNetwork, name: str) -> tuple[OnnxSession, float]:
    """As :func:`export_onnx`, by PyTorch's older exporter: in a tenth of the time, without metadata, and with ONNX Runtime alone.

    It records one pass, so that the graph of a network which branches on the size of its input is refused.
    """
    require_packages("onnxruntime")
    content, axes = io.BytesIO(), {"lr": FREE, "sr": FREE}
    _written(folded(network), (torch.rand(EXAMPLE),), content, dynamo=False, dynamic_axes=axes)
    session = OnnxSession(content.getvalue(), name)
    return session, verify_graph(network, session, "fp32", name)


EXPORTERS = {record_onnx: 2e11, export_onnx: 2e12}
"""Multiply-adds per thread from which ``"auto"`` takes ONNX Runtime by an exporter; what the first refuses, the second may write.
On one core, PyTorch needs 5 to 12 s for 2e11 and ONNX Runtime 50 to 90 % of that (docs/performance.md), while exporting and
checking takes about 1 s, and 6 to 15 s, whatever the threads."""


class RuntimeNetwork(SRNetwork):
    """A network whose graph another runtime executes: it has no parameters, and can be neither trained nor saved.

    Args:
        network: what the graph was made of; only its structure is used.
        runner: executes the graph; ``runtime`` is its name and version, ``in_torch`` says whether PyTorch allocates its memory.
    """

    def __init__(self, network: SRNetwork, runner: Program | OnnxSession) -> None:
        super().__init__()
        self._runner, self.runtime, self.in_torch = runner, runner.runtime, runner.in_torch
        # In a tuple, so that it is no submodule: on the meta device it has no values to move or to save.
        self._structure = (deepcopy(network).to("meta").eval(),)
        self.arch, self.scale, self.genotype = network.arch, network.scale, network.genotype
        self.tile_overlap, self.pools_globally = tile_overlap(network), pools_globally(network)
        # ONNX Runtime's arena grows by doubling and is never given back; without it, runs take 1.25 to 1.6 times as long.
        self.memory_factor = 1 if self.in_torch else 2
        self.eval()

    def settings(self) -> dict[str, Any]:
        """The arguments that build the plain network again, JSON-ready."""
        return self._structure[0].settings()

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph; on the meta device, where memory is estimated, the plain network stands in.

        Raises:
            UserError: under autocast, or where the runtime lacks the device.
        """
        if x.is_meta:
            return self._structure[0](x)
        if torch.is_autocast_enabled(x.device.type):
            raise UserError("the precision of an exported graph was chosen when it was exported: run it as fp32.")
        try:
            y = self._runner(x)
        except Exception as error:  # as above
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            raise UserError(f"the graph does not run as the network that its metadata describe: {first_line(error)}") from error
        if y.shape != (expected := (len(x), 3, *(self.scale * side for side in x.shape[2:]))):
            raise UserError(
                f"the graph is not of the network that its metadata describe: {tuple(y.shape)} instead of {expected}."
            )
        return y

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeNetwork:
        return self  # it never changes, and sessions cannot be copied


def countable(network: Module) -> Module:
    """Return a network whose layers can be counted: itself, or a new one like that of which a graph was made."""
    return NETWORKS.get(network.arch)(**network.settings()) if isinstance(network, RuntimeNetwork) else network


def for_inference(
    network: SRNetwork, engine: Engine, device: torch.device | str, precision: Precision = "fp32", pixels: float = math.inf
) -> tuple[SRNetwork, str]:
    """Return a network of the same function prepared for an engine, and the name of the engine that runs it.

    With ``"torch"``, layers are folded, and on the CPU weights lie channels_last, as its convolutions prefer. ``"onnxruntime"``
    exports to ONNX in memory. ``"auto"`` does so on the CPU in fp32 where the work exceeds that in :data:`EXPORTERS`; where the
    export fails it takes PyTorch, and the name says why.

    Args:
        network: left as it is; a :class:`RuntimeNetwork` has its engine already.
        engine: what to run it by.
        device: device to run on.
        precision: ONNX Runtime computes in fp32 here.
        pixels: LR pixels to upscale; 0 where an export never pays.

    Raises:
        UserError: the engine was named, and cannot run this network here.
    """
    device, remark = torch.device(device), ""
    if isinstance(network, RuntimeNetwork):
        if engine not in ("auto", "torch" if network.in_torch else "onnxruntime"):
            raise UserError(f"--engine {engine}: this file is run by {network.runtime}; export the network in another format.")
        return network, network.runtime
    if engine == "onnxruntime" and precision != "fp32":
        raise UserError(f"--engine onnxruntime does not run in {precision}: use --engine torch.")
    # Multiply-adds, about: nearly every weight of these networks is used once per LR pixel.
    work = pixels * sum(parameter.numel() for parameter in network.parameters()) / torch.get_num_threads()
    suits = engine == "auto" and device.type == "cpu" and precision == "fp32"
    for export, least in EXPORTERS.items():
        if engine == "onnxruntime" or (suits and work >= least):
            try:
                session, _ = export(deepcopy(network).cpu().eval(), network.arch)
                session.on(device.type)
                return RuntimeNetwork(network, session), session.runtime
            except UserError as error:
                remark = f"{error}"
    if engine == "onnxruntime":
        raise UserError(f"--engine onnxruntime: {remark}")
    copy = folded(network)
    if device.type == "cpu":
        copy = copy.to(memory_format=torch.channels_last)
    return copy, f"PyTorch {torch.__version__}" + f" (not ONNX Runtime: {remark})" * bool(remark)
