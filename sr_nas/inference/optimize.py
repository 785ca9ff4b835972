"""Networks made ready to run: folded layers, and graphs of any size for ``torch.export`` and ONNX Runtime."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_shapes
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sr_nas.contracts import SRNetwork, reparameterized
from sr_nas.errors import UserError
from sr_nas.inference.tiles import pools_globally, tile_overlap
from sr_nas.registry import NETWORKS
from sr_nas.runs.device import Precision

EXAMPLE = (2, 3, 40, 46)
"""Input shape at which a graph is traced. No side of it becomes 0 or 1 behind strides and poolings, which torch.export would
specialise on."""
CHECKED = ((1, 3, 17, 31), (2, 3, 40, 24), (1, 3, 9, 6))
"""Input shapes at which a graph is compared: odd ones, another batch, and one smaller than every network's receptive field."""
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest difference that counts as rounding, for outputs of 0..1: a fortieth of a level of 8 bits, and two and a half."""
OPSET = 18
"""The exporter's native opset; TensorRT, DirectML and OpenVINO have supported it for long."""
INPUT, OUTPUT = "lr", "sr"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

Engine = Literal["auto", "torch", "onnxruntime"]
Module = TypeVar("Module", bound=nn.Module)
WORTH_EXPORTING = 2e12
"""Multiply-adds per thread from which ``"auto"`` takes ONNX Runtime. On one core, PyTorch needs 60 to 120 s for them and ONNX
Runtime 65 to 90 % of that (IMDN, DLSR, searched networks), while exporting and checking takes 6 to 12 s, whatever the threads."""


def folded(network: Module) -> Module:
    """Return a copy, in eval mode, with branches re-parameterised and BatchNorms folded into the convolution before them.

    In eval mode a BatchNorm is a factor and a summand per channel, which a convolution's weights and bias can hold (Jacob et
    al. 2018, section 3.2); one that follows no convolution in a Sequential stays. The output is the same to rounding: within
    1e-5 in float32 for outputs around 0..1.

    Args:
        network: left as it is.
    """
    copy = reparameterized(network).eval()
    for module in list(copy.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    return copy


def _fold(chain: nn.Sequential) -> None:
    for index in range(len(chain) - 2, -1, -1):
        conv, norm = chain[index], chain[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            chain[index] = fuse_conv_bn_eval(conv, norm)
            del chain[index + 1]


class RuntimeNetwork(SRNetwork):
    """A network whose graph another runtime executes: it has no parameters, and can be neither trained nor saved.

    Args:
        network: what the graph was made of; only its structure is used.
        run: maps [N, 3, H, W], float32 on any device, to [N, 3, s H, s W], float32 on that device.
        runtime: name and version of what executes it.
        in_torch: whether PyTorch allocates its memory.
        metadata: of the file it comes from.
    """

    def __init__(
        self,
        network: SRNetwork,
        run: Callable[[Tensor], Tensor],
        runtime: str,
        in_torch: bool,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.metadata, self.runtime, self.in_torch, self._run = dict(metadata or {}), runtime, in_torch, run
        # In a tuple, so that it is no submodule: on the meta device it has no values to move or to save.
        self._structure = (deepcopy(network).to("meta").eval(),)
        self.arch, self.scale, self.genotype = network.arch, network.scale, network.genotype
        self.tile_overlap, self.pools_globally = tile_overlap(network), pools_globally(network)
        # ONNX Runtime's arena grows by doubling and is never given back; without it, runs take 1.25 to 1.6 times as long.
        self.memory_factor = 1 if in_torch else 2
        self.eval()

    def plain(self) -> SRNetwork:
        """Return the network that the graph was made of, freshly initialised, so that its layers can be counted."""
        network: SRNetwork = NETWORKS.get(self.arch)(**self.settings())
        return network

    def settings(self) -> dict[str, Any]:
        """The arguments that build the plain network again, JSON-ready."""
        return self._structure[0].settings()

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``.

        On the meta device, where nothing is computed, the plain network stands in, so that memory can be estimated.

        Raises:
            UserError: under autocast, or where the runtime lacks the device.
        """
        if x.is_meta:
            return self._structure[0](x)
        if torch.is_autocast_enabled(x.device.type):
            raise UserError("the precision of an exported graph was chosen when it was exported: run it as fp32.")
        return self._run(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> RuntimeNetwork:
        return self  # it never changes, and sessions cannot be copied


def countable(network: SRNetwork) -> SRNetwork:
    """Return a network whose layers can be counted: itself, or the plain one that a graph was made of."""
    return network.plain() if isinstance(network, RuntimeNetwork) else network


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

    Args:
        network: left as it is.
        half: compute in float16; input and output stay float32.

    Raises:
        UserError: PyTorch is too old.
    """
    config: Any = symbolic_shapes
    if not hasattr(config, "backed_size_oblivious"):
        raise UserError(f"exporting a graph of any size needs PyTorch 2.7 or newer; this is {torch.__version__}.")
    module, free = folded(network), torch.export.Dim.DYNAMIC
    # Without backed_size_oblivious, PyTorch asserts that no side behind a stride or pooling is 1, which refuses small images.
    with config.patch(backed_size_oblivious=True), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            HalfPrecision(module).eval() if half else module,
            (torch.rand(EXAMPLE),),
            dynamic_shapes=({0: free, 2: free, 3: free},),
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of the machine that exports
    return program


def check_same(network: nn.Module, run: Callable[[Tensor], Tensor], precision: str, name: str) -> float:
    """Return the largest difference between a graph and the network it was made of, on noise in 0..1 of three sizes.

    Raises:
        UserError: it exceeds :data:`TOLERANCE`, or the graph does not run at a size.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for size in CHECKED:
        x, words = torch.rand(size, generator=generator), f"an input of {'x'.join(map(str, size))}"
        with torch.inference_mode():
            expected = network(x)
            try:
                result = run(x)
            except Exception as error:
                raise UserError(f"{name} does not run on {words}, and is refused: {error}") from error
        if result.shape != expected.shape:
            raise UserError(f"{name} gives {list(result.shape)} for {words}, PyTorch {list(expected.shape)}.")
        difference = (result - expected).abs().max().item()
        if not difference <= TOLERANCE[precision]:  # so NaN is refused too
            advice = " Export it without --fp16." if precision == "fp16" else ""
            raise UserError(
                f"{name} differs from PyTorch by {difference:.2g} on {words}; up to {TOLERANCE[precision]:g} would "
                f"be rounding in {precision}. It is refused.{advice}"
            )
        largest = max(largest, difference)
    return largest


def onnx_model(
    network: SRNetwork, name: str, metadata: Mapping[str, str] | None = None, opset: int = OPSET, half: bool = False
) -> tuple[bytes, float]:
    """Return a network as a serialised ONNX model, and the largest difference of what ONNX Runtime computes from it.

    The graph maps ``lr``, ``[batch, 3, height, width]``, to ``sr``, float32 RGB in 0..1 both.

    Args:
        network: in eval mode, on the CPU; left as it is.
        name: what to call the model in messages.
        metadata: of the model.
        opset: version of ONNX's operators.
        half: compute in float16, with weights of half the size.

    Raises:
        UserError: a package is missing, PyTorch is too old, the exporter does not write this opset, or the model does not give
            what the network gives.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise UserError(
            f"--opset {opset}: PyTorch's exporter writes {OPSET} or newer, and the onnx installed here knows {newest}."
        )
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
    model = exported.model
    if model.opset_imports[""] != opset:
        raise UserError(f"--opset {opset}: the exporter of PyTorch {torch.__version__} writes {model.opset_imports['']}.")
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # names files of the machine that exports
    model.metadata_props.update(metadata or {})
    content: bytes = exported.model_proto.SerializeToString()
    return content, check_same(network, OnnxSession(content, name), "fp16" if half else "fp32", name)


def require_packages(*packages: str) -> None:
    """Raise UserError where a package for ONNX is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be installed for ONNX: pip install 'sr_nas[onnx]'")


class OnnxSession:
    """ONNX Runtime on a model, on the device of its input, with as many threads as PyTorch has.

    Args:
        content: the serialised model.
        name: what to call the model in messages.

    Raises:
        UserError: it is no ONNX model, or ONNX Runtime is missing or lacks the device.
    """

    def __init__(self, content: bytes, name: str) -> None:
        require_packages("onnxruntime")
        import onnxruntime

        self._content, self._name, self._sessions = content, name, {}  # type: ignore[var-annotated]
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        self.metadata: dict[str, str] = dict(self.on("cpu").get_modelmeta().custom_metadata_map)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W], float32 on any device, to the output on that device."""
        session = self.on(x.device.type)
        try:
            (y,) = session.run([OUTPUT], {INPUT: x.detach().cpu().contiguous().numpy()})
        except Exception as error:
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(y).to(x.device)

    def on(self, device: str) -> Any:
        """Return the ``onnxruntime.InferenceSession`` on a device, ``"cpu"`` or ``"cuda"``."""
        if device not in self._sessions:
            import onnxruntime

            provider = PROVIDERS.get(device)
            if provider not in onnxruntime.get_available_providers():
                advice = "install onnxruntime-gpu in place of onnxruntime, or " if device == "cuda" else ""
                raise UserError(f"{self._name}: this ONNX Runtime does not run on {device}; {advice}use --num_gpu 0.")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
            try:
                providers = list(dict.fromkeys((provider, PROVIDERS["cpu"])))
                session = onnxruntime.InferenceSession(self._content, options, providers=providers)
            except Exception as error:
                raise UserError(f"{self._name} cannot be read as ONNX: {error}") from error
            if provider not in session.get_providers():
                raise UserError(f"{self._name}: ONNX Runtime could not start {provider}; see its messages, or use --num_gpu 0.")
            self._sessions[device] = session
        return self._sessions[device]


def for_inference(
    network: nn.Module, engine: Engine, device: torch.device | str, precision: Precision = "fp32", pixels: float = math.inf
) -> tuple[nn.Module, str]:
    """Return a network of the same function that is the fastest to run, and the name of the engine that runs it.

    With ``"torch"``, layers are folded, and on the CPU weights lie channels_last, as its convolutions prefer. ``"onnxruntime"``
    exports to ONNX in memory. ``"auto"`` does so on the CPU where ONNX Runtime is installed, the network is one of ours and the
    work exceeds :data:`WORTH_EXPORTING`; where the export fails it takes PyTorch, and the name says why.

    Args:
        network: left as it is; a :class:`RuntimeNetwork` has its engine already.
        engine: what to run it by.
        device: where.
        precision: ONNX Runtime computes in fp32 here.
        pixels: LR pixels that are to be upscaled.

    Raises:
        UserError: the engine was named, and cannot run this network here.
    """
    device = torch.device(device)
    if isinstance(network, RuntimeNetwork):
        if engine == ("onnxruntime" if network.in_torch else "torch"):
            raise UserError(f"--engine {engine}: this file is run by {network.runtime}; export the network in another format.")
        return network, network.runtime
    if engine == "onnxruntime" and (precision != "fp32" or not isinstance(network, SRNetwork)):
        what = f"in {precision}" if precision != "fp32" else f"a {type(network).__name__}"
        raise UserError(f"--engine onnxruntime does not run {what}: use --engine torch.")
    remark = ""
    # Multiply-adds, about: nearly every weight of these networks is used once per LR pixel.
    work = pixels * sum(parameter.numel() for parameter in network.parameters())
    suits = device.type == "cpu" and precision == "fp32" and isinstance(network, SRNetwork)
    if engine == "onnxruntime" or (engine == "auto" and suits and work >= WORTH_EXPORTING * torch.get_num_threads()):
        assert isinstance(network, SRNetwork)
        try:
            session = OnnxSession(onnx_model(deepcopy(network).cpu().eval(), network.arch)[0], network.arch)
            session.on(device.type)
            return RuntimeNetwork(network, session, session.runtime, in_torch=False), session.runtime
        except UserError as error:
            if engine == "onnxruntime":
                raise UserError(f"--engine onnxruntime: {error}") from error
            remark = f" (not ONNX Runtime: {error})"
    copy = folded(network)
    if device.type == "cpu":
        copy = copy.to(memory_format=torch.channels_last)
    return copy, f"PyTorch {torch.__version__}{remark}"
