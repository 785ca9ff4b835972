"""Self-describing files of one network: tensors as ``.safetensors`` or ``.pth``, graphs as ``.onnx`` or ``.pt2``.

The metadata (:func:`describe_network`) say everything that builds the network again. Some tools hand on a file's tensors and
nothing else - spandrel is one - and shapes do not tell all: which cells feed a cell of DLSR shows in none. Files of tensors
therefore carry one more, :data:`SETTINGS`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sr_nas import __version__
from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.inference.optimize import OPSET, OnnxSession, Program, RuntimeNetwork, export_onnx, traced, verify_graph
from sr_nas.registry import CLASSIFIERS, NETWORKS
from sr_nas.runs.files import replacing
from sr_nas.runs.run_dir import load_tensors

SETTINGS = "sr_nas.settings"
"""Name of the tensor, uint8, of JSON in UTF-8: ``{"architecture": name, "settings": arguments}``. No network of ours has a
submodule ``sr_nas``."""
PTH_METADATA = "sr_nas"
PT2_METADATA = "sr_nas.json"
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def describe_network(network: Network, training: dict[str, Any] | None = None) -> dict[str, str]:
    """Return the metadata of a network's file.

    The keys are ``architecture``, ``settings`` (JSON: scale, sizes, genotype), ``scale``, ``value_range``, ``training`` (JSON:
    how it was trained, or from which released weights it is) and ``sr_nas_version``. A classifier has ``task``, ``num_classes``
    and ``input_size`` instead of ``scale``, and the mean and deviation of its images in ``training``.
    """
    if isinstance(network, Classifier):
        of_task = {
            "task": network.task,
            "num_classes": str(network.num_classes),
            "input_size": str(network.input_size),
            "value_range": "0..1 RGB, less the mean of its training, divided by the deviation",
        }
    else:
        of_task = {"scale": str(cast(SRNetwork, network).scale), "value_range": "0..1 RGB"}
    return {
        "architecture": network.arch,
        "settings": json.dumps(network.settings()),
        **of_task,
        "training": json.dumps(training or {}),
        "sr_nas_version": __version__,
    }


def read_settings(tensor: Tensor) -> dict[str, str]:
    """Return ``architecture`` and ``settings`` of a tensor :data:`SETTINGS`, as :func:`describe_network` has them.

    Raises:
        UserError: it holds something else.
    """
    try:
        # A caller may have cast all tensors of a file to half precision, which holds whole numbers up to 2048.
        content = json.loads(bytes(tensor.to("cpu", torch.uint8).tolist()))
        return {"architecture": str(content["architecture"]), "settings": json.dumps(dict(content["settings"]))}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the tensor {SETTINGS} does not describe a network: {error!r}.") from error


def build_network(metadata: Mapping[str, str]) -> Any:
    """Build the network that metadata describe, freshly initialised.

    Raises:
        UserError: an architecture that is not known here, or settings that it does not take.
    """
    architecture, settings = metadata["architecture"], json.loads(metadata["settings"])
    registry = CLASSIFIERS if metadata.get("task") == Classifier.task else NETWORKS
    try:
        return registry.get(architecture)(**settings)
    except TypeError as error:
        raise UserError(f"{architecture} cannot be built from the settings {settings}: {error}.") from error


def save_network(path: Path, network: Network, training: dict[str, Any] | None = None, half: bool = False) -> str:
    """Write a network as the suffix says; return what was verified, ``""`` for tensors, which are written to the bit.

    ``.pth`` is ``{"params": tensors, "state_dict": tensors and settings, "sr_nas": metadata}``. BasicSR reads ``params``
    strictly, which therefore holds the network's tensors alone. Spandrel takes ``state_dict`` before ``params``, and finds the
    settings there. The tensors are stored once. ``.onnx`` (:func:`~sr_nas.inference.optimize.export_onnx`) and ``.pt2``, a
    ``torch.export`` program, are written only if they give what the network gives.

    Args:
        path: file to write.
        network: an instance of a registered network; for a graph, in eval mode and on the CPU.
        training: JSON-ready summary of its training.
        half: ONNX that computes in float16, with weights of half the size.

    Raises:
        UserError: a package for the graph is missing, PyTorch is too old, or the graph differs; nothing is written then.
    """
    metadata = describe_network(network, training)
    if path.suffix == ".onnx":
        session, difference = export_onnx(cast(SRNetwork, network), f"the ONNX graph of {path.name}", metadata, half)
        with replacing(path) as temporary:
            temporary.write_bytes(session.content)
        kind = f"ONNX opset {OPSET}, {'fp16' if half else 'fp32'}; ONNX Runtime"
    elif path.suffix == ".pt2":
        with replacing(path) as temporary:
            torch.export.save(traced(network), temporary, extra_files={PT2_METADATA: json.dumps(metadata)})
            difference = verify_graph(network, _load_graph(temporary), "fp32", f"the program of {path.name}")
        kind = f"torch.export of PyTorch {torch.__version__}; it"
    else:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        text = json.dumps({"architecture": network.arch, "settings": network.settings()})
        described = tensors | {SETTINGS: torch.tensor(list(text.encode()), dtype=torch.uint8)}
        with replacing(path) as temporary:
            if path.suffix == ".pth":
                torch.save({"params": tensors, "state_dict": described, PTH_METADATA: metadata}, temporary)
            else:
                save_file(described, temporary, metadata)
        return ""
    return f"{kind} differs from the network by at most {difference:.2g} on three sizes"


def load_any(path: str | Path) -> Network:
    """Build the network of any task in an exported file, in eval mode, on the CPU.

    ONNX Runtime runs an ``.onnx``, ``torch.export`` a ``.pt2`` (:class:`~sr_nas.inference.optimize.RuntimeNetwork`). PyTorch
    may run code of the author of a ``.pt2`` when it reads one: open only those you trust. A classifier maps RGB in 0..1,
    ``[N, 3, H, W]``, less ``mean`` and divided by ``std``, which :func:`read_metadata` has under ``training``, to logits,
    ``[N, num_classes]``.

    Raises:
        UserError: the file is missing, damaged, no export of ours, of an architecture that is not known here, or needs a
            package that is missing.
    """
    path = Path(path)
    if path.suffix in (".onnx", ".pt2"):
        return _load_graph(path)
    metadata, tensors = read_file(path)
    if "architecture" not in metadata:
        if path.suffix in (".pth", ".pt"):
            raise UserError(f"{path} does not say what network it holds: name it with --arch, for example --arch imdn.")
        raise UserError(
            f"{path} is a safetensors file, but not a network exported by sr_nas: its metadata has no 'architecture'."
        )
    network: Network = build_network(metadata)
    return load_state(network, tensors, path)


def _load_graph(path: Path) -> RuntimeNetwork:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    runner: OnnxSession | Program
    if path.suffix == ".onnx":
        runner = OnnxSession(path.read_bytes(), str(path))
        metadata = runner.metadata
    else:
        extra = {PT2_METADATA: ""}
        try:
            runner = Program(torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra))
            metadata = json.loads(extra[PT2_METADATA] or "{}")
        except Exception as error:  # torch.export.load raises whatever it meets in a damaged file
            raise UserError(f"PyTorch {torch.__version__} cannot read {path} as a program of torch.export: {error}") from error
    if "architecture" not in metadata:
        raise UserError(f"{path} was not exported by sr_nas: its metadata has no architecture.")
    with torch.device("meta"):
        return RuntimeNetwork(build_network(metadata), runner)


def load_network(path: str | Path) -> SRNetwork:
    """Build the network of super-resolution in an exported file, with its weights, in eval mode, on the CPU.

    It maps RGB in 0..1, ``[N, 3, H, W]``, to ``[N, 3, scale*H, scale*W]``.

    Raises:
        UserError: as :func:`load_any`; or it is a classifier.
    """
    network = load_any(path)
    if isinstance(network, Classifier):
        raise UserError(
            f"{path} is a classifier, {network.arch} of {network.num_classes} classes: it says what is in an image and upscales "
            "none. Its accuracy is in the history of its training, and tools/complexity.py --model counts it."
        )
    return cast(SRNetwork, network)


def load_state(network: AnyNetwork, tensors: Mapping[str, Tensor], path: str | Path) -> AnyNetwork:
    """Give a network exactly these tensors and return it in eval mode.

    Raises:
        UserError: a tensor is missing, of another shape, or unknown; ``path`` is the file that the message names.
    """
    state = network.state_dict()
    missing = [name for name in state if name not in tensors or tensors[name].shape != state[name].shape]
    unknown = [name for name in tensors if name not in state]
    if missing or unknown:
        raise UserError(
            f"{path} does not fit its architecture {network.genotype}; missing or of another shape: "
            f"{listing(missing, 5) or 'nothing'}; unknown: {listing(unknown, 5) or 'nothing'}."
        )
    network.load_state_dict(tensors)
    return network.eval()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of :func:`read_file`."""
    return read_file(Path(path))[0]


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata (:func:`describe_network`) and the tensors, on the CPU, of a ``.safetensors`` or ``.pth`` of ours.

    Metadata are empty for a ``.safetensors`` by others, and both are for a ``.pth`` by others.

    Raises:
        UserError: the file is missing, damaged, or would run code.
    """
    if path.suffix in (".pth", ".pt"):
        content = load_tensors(path)
        metadata, tensors = content.get(PTH_METADATA), content.get("params")
        is_ours = isinstance(metadata, dict) and "architecture" in metadata and isinstance(tensors, dict)
        return (metadata, tensors) if is_ours else ({}, {})  # type: ignore[return-value]
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys() if name != SETTINGS}  # noqa: SIM118 - no iterator
            return dict(stream.metadata() or {}), tensors
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from error
