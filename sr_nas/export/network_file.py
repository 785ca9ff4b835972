"""Self-describing files of one network: tensors as ``.safetensors`` or ``.pth``, graphs as ``.onnx`` or ``.pt2``.

The metadata (:func:`describe_network`) say everything that builds the network again. Some tools hand on a file's tensors and
nothing else - spandrel is one - and shapes do not tell all: which cells feed a cell of DLSR shows in none. Files of tensors
therefore carry one more, :data:`SETTINGS`.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from sr_nas import __version__
from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.errors import UserError, first_line, listing
from sr_nas.inference.optimize import (
    OPSET,
    OnnxSession,
    Program,
    RuntimeNetwork,
    export_onnx,
    read_onnx,
    traced,
    verify_graph,
    without_logging,
)
from sr_nas.registry import CLASSIFIERS, NETWORKS, PLUGINS
from sr_nas.runs.files import kind_of, replacing
from sr_nas.runs.run_dir import first_non_finite, load_tensors, write_torch

SETTINGS = "sr_nas.settings"
"""Name of the tensor, uint8, of JSON in UTF-8: ``{"architecture": name, "settings": arguments}``. No network of ours has a
submodule ``sr_nas``."""
PTH_METADATA = "sr_nas"
PT2_METADATA = "sr_nas.json"
WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""Keys under which training codes put the tensors of a network, the preferred one first."""
PREFIXES = ("module.", "model.", "net_g.", "network.", "netG.")
"""What DataParallel, Lightning and others put before the names of all tensors; no network of ours has such a module."""
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def describe_network(network: Network, training: dict[str, Any] | None = None) -> dict[str, str]:
    """Return the metadata of a network's file.

    The keys are ``architecture``, ``settings`` (JSON: scale, sizes, genotype), ``scale``, ``value_range``, ``training`` (JSON:
    how it was trained, or from which released weights it is) and ``sr_nas_version``; ``plugins`` where some are loaded, by name.
    A classifier has ``task``, ``num_classes`` and ``input_size`` instead of ``scale``, and the mean and deviation of its images
    in ``training``.
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
        **({"plugins": listing(_loaded())} if PLUGINS else {}),
    }


def _loaded() -> list[str]:
    """Names of the plug-ins that are loaded."""
    return sorted({Path(file).name for file in PLUGINS})


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


def build_network(metadata: Mapping[str, str], most: int) -> Any:
    """Build the network that metadata describe, freshly initialised.

    Args:
        metadata: ``architecture``, ``settings`` and ``task`` of :func:`describe_network`.
        most: parameters (weights and biases each) that its file has room for; a larger network is refused before it is built.

    Raises:
        UserError: an architecture that is not known here, or settings that it does not take.
    """
    architecture, count = metadata.get("architecture", ""), itertools.count(1)
    registry = CLASSIFIERS if metadata.get("task") == Classifier.task else NETWORKS

    def limit(*_: object) -> None:
        if next(count) > most:
            raise ValueError("the network is far larger than its file")

    hook = register_module_parameter_registration_hook(limit)
    try:
        return registry.get(architecture)(**json.loads(metadata.get("settings", "")))
    except UserError as error:
        if missing := [name for name in metadata.get("plugins", "").split(", ") if name not in ("", *_loaded())]:
            raise UserError(
                f"{error} It was made with the plug-in {listing(missing)}, and no file of a network runs code: if you have "
                f"the plug-in and trust it, name it with --plugin {missing[0]}."
            ) from error
        raise
    except Exception as error:  # whatever a constructor meets in settings that are damaged
        settings = metadata.get("settings", "")[:300]
        raise UserError(f"{architecture} cannot be built from its settings {settings}: {first_line(error)}.") from error
    finally:
        hook.remove()


def save_network(path: Path, network: Network, training: dict[str, Any] | None = None, half: bool = False) -> str:
    """Write a network as the suffix says; return what was verified, ``""`` for tensors, which are written as they are.

    ``.pth`` is ``{"params": tensors, "state_dict": tensors and settings, "sr_nas": metadata}``. BasicSR reads ``params``
    strictly, which therefore holds the network's tensors alone. Spandrel takes ``state_dict`` before ``params``, and finds the
    settings there. The tensors are stored once. ``.onnx`` (:func:`~sr_nas.inference.optimize.export_onnx`) and ``.pt2``, a
    ``torch.export`` program, are written only if they give what the network gives.

    Args:
        path: file to write.
        network: an instance of a registered network; for a graph, in eval mode and on the CPU.
        training: JSON-ready summary of its training.
        half: weights of half the size: ONNX that computes in float16; a ``.safetensors`` whose tensors are rounded to float16,
            and loaded as float32.

    Raises:
        UserError: weights are not finite, or too large for float16, a package for the graph is missing, PyTorch is too old, or
            the graph differs; nothing is written then.
        OSError: nothing can be written there.
    """
    if name := first_non_finite(network):
        raise UserError(f"{path} is not written: {name} of the network is not finite, so it would give no image.")
    metadata, suffix = describe_network(network, training), path.suffix.lower()
    if suffix == ".onnx":
        session, difference = export_onnx(cast(SRNetwork, network), f"the ONNX graph of {path.name}", metadata, half)
        with replacing(path) as temporary:
            temporary.write_bytes(session.content)
        kind = f"ONNX opset {OPSET}, {'fp16' if half else 'fp32'}; ONNX Runtime"
    elif suffix == ".pt2":
        with replacing(path) as temporary:
            program = io.BytesIO()  # to a disk that is full PyTorch would not say so
            torch.export.save(traced(network), program, extra_files={PT2_METADATA: json.dumps(metadata)})
            temporary.write_bytes(program.getbuffer())
            difference = verify_graph(network, _load_graph(temporary, "pt2"), "fp32", f"the program of {path.name}")
        kind = f"torch.export of PyTorch {torch.__version__}; it"
    else:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        if half and suffix == ".safetensors":
            tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
            if large := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
                raise UserError(f"{path} is not written: {large[0]} is too large for float16: store it in full precision.")
        text = json.dumps({"architecture": network.arch, "settings": network.settings()})
        described = tensors | {SETTINGS: torch.tensor(list(text.encode()), dtype=torch.uint8)}
        if suffix == ".pth":
            write_torch(path, {"params": tensors, "state_dict": described, PTH_METADATA: metadata})
        else:
            write_tensors(path, described, metadata)
        return ""
    return f"{kind} differs from the network by at most {difference:.2g} on three sizes"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a ``.safetensors``, all or nothing; an OSError where that cannot be."""
    with replacing(path) as temporary:
        temporary.write_bytes(save(dict(tensors), metadata))


def load_any(path: str | Path) -> Network:
    """Build the network of any task in an exported file, in eval mode, on the CPU.

    Tensors without metadata are opened with spandrel, where it knows them (:mod:`sr_nas.bridge.guests`).
    ONNX Runtime runs an ``.onnx``, ``torch.export`` a ``.pt2`` (:class:`~sr_nas.inference.optimize.RuntimeNetwork`). PyTorch
    may run code of the author of a ``.pt2`` when it reads one: open only those you trust. A classifier maps RGB in 0..1,
    ``[N, 3, H, W]``, less ``mean`` and divided by ``std``, which :func:`read_metadata` has under ``training``, to logits,
    ``[N, num_classes]``.

    Raises:
        UserError: the file is missing, damaged, no export of ours, of an architecture that is not known here, or needs a
            package that is missing.
    """
    path = Path(path)
    if (kind := kind_of(path)) in ("onnx", "pt2"):
        return _load_graph(path, kind)
    metadata, content = read_file(path)
    tensors, wrappers = bare_tensors(content, path)
    if not metadata:
        guest, remark = None, "Networks of others open with spandrel: pip install 'sr_nas[spandrel]'."
        if importlib.util.find_spec("spandrel") is not None:
            # Some names begin with "model." of themselves, so spandrel sees them with what we take for a prefix first.
            as_named = content[wrappers[0]] if wrappers else content
            guest = importlib.import_module("sr_nas.bridge.guests").opened([as_named, tensors], path)
            remark = "spandrel does not know them either."
        if guest is None:
            raise UserError(
                f"{path} does not say which network its tensors are of. Name it with --arch, for example --arch imdn; where a "
                f"command has no --arch, first make a file that does: tools/export.py --model {path} --arch NAME -o "
                f"FILE.safetensors. {remark}"
            )
        return cast(Network, guest)
    room = 1000 + 4 * len(tensors)
    with torch.device("meta"):  # where a wrong size costs no memory
        fit(build_network(metadata, room), tensors, path)
    network: Network = build_network(metadata, room)
    return load_state(network, tensors, path)


def _load_graph(path: Path, kind: str) -> RuntimeNetwork:
    runner: OnnxSession | Program
    if kind == "onnx":
        runner = OnnxSession(read_onnx(path), str(path))
        metadata = runner.metadata
    elif path.suffix.lower() != ".pt2":
        raise UserError(
            f"{path} is a program of torch.export, and reading one may run code of its author's. If you trust it, give it a name "
            "that ends in .pt2."
        )
    else:
        extra = {PT2_METADATA: ""}
        try:
            with without_logging():  # of PyTorch's own tracebacks
                runner = Program(torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra))
            metadata = json.loads(extra[PT2_METADATA] or "{}")
        except Exception as error:  # torch.export.load raises whatever it meets in a damaged file
            version, reason = torch.__version__, first_line(error)
            raise UserError(f"PyTorch {version} cannot read {path} as a program of torch.export: {reason}") from error
    if "architecture" not in metadata:
        raise UserError(f"{path} was not exported by sr_nas: its metadata has no architecture.")
    with torch.device("meta"):
        return RuntimeNetwork(build_network(metadata, path.stat().st_size // 16), runner)


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
    """Give a network exactly these tensors and return it in eval mode; a UserError as :func:`fit` has it."""
    fit(network, tensors, path)
    network.load_state_dict(tensors)
    return network.eval()


def fit(network: Network, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError where a tensor of the network is missing, of another shape or unknown; ``path`` is the file to name."""
    state = network.state_dict()
    missing = [name for name, tensor in state.items() if name not in tensors or not _replaces(tensors[name], tensor)]
    unknown = [name for name in tensors if name not in state]
    if missing or unknown:
        raise UserError(
            f"{path} does not fit its architecture {network.genotype}; missing or of another shape or type: "
            f"{listing(missing, 5) or 'nothing'}; unknown: {listing(unknown, 5) or 'nothing'}."
        )


def _replaces(new: Tensor, old: Tensor) -> bool:
    """Return whether a tensor of a file can take the place of another: whole numbers would be weights without their unit."""
    return new.shape == old.shape and (new.is_floating_point() or not old.is_floating_point())


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of :func:`read_file`."""
    return read_file(Path(path))[0]


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata (:func:`describe_network`) and the content, on the CPU, of a file of tensors, whatever its name.

    Metadata are empty for a file by others. The content of a ``.safetensors`` are its tensors by name, but for :data:`SETTINGS`;
    for that of a ``.pth`` see :func:`bare_tensors`.

    Raises:
        UserError: the file is missing, damaged, a graph, or would run code.
    """
    kind = kind_of(path)
    if kind == "torch":
        content = load_tensors(path)
        metadata = content.pop(PTH_METADATA, None)
    elif kind == "safetensors":
        # Not mapped: a file that is cut while it is read would end the process.
        data = path.read_bytes()
        try:
            content = load(data)
        except Exception as error:  # SafetensorError, or what PyTorch says of a shape
            raise UserError(f"{path} cannot be read as safetensors, and is damaged: {first_line(error)}.") from error
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
        content.pop(SETTINGS, None)
    else:
        raise UserError(
            f"{path} is a graph ({kind}): it holds no weights to take out. Take the .safetensors or .pth of its network."
        )
    described = isinstance(metadata, dict) and isinstance(metadata.get("architecture"), str)
    return ({key: str(value) for key, value in metadata.items()} if described else {}), content


def bare_tensors(content: Mapping[str, Any], path: Path, key: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Take the tensors out of the wrapper that a training code put around them, and its prefixes off their names.

    Args:
        content: of the file.
        path: the file, for messages.
        key: of the wrapper; by default the first of :data:`WRAPPERS` that the file has, else its only mapping of tensors, else
            the content itself.

    Returns:
        The tensors, and the keys of all wrappers in the file, that of the tensors first.

    Raises:
        UserError: something there is no plain tensor; the message lists what the file holds.
    """
    wrappers = [name for name in WRAPPERS if _are_tensors(content.get(name))]
    others = [name for name, value in content.items() if name not in WRAPPERS and _are_tensors(value)]
    wrappers += others if wrappers or len(others) == 1 else []
    if key is not None:
        wrappers = [key, *(name for name in wrappers if name != key)]
    tensors = content.get(wrappers[0]) if wrappers else content
    if not _are_tensors(tensors):
        expected = f"under '{key}'" if key is not None else f"bare or under {listing(WRAPPERS)}"
        wrapper = next((name for name in ([key] if key is not None else WRAPPERS) if isinstance(content.get(name), Mapping)), "")
        kinds = [f"{name} ({type(value).__name__})" for name, value in content[wrapper].items()] if wrapper else content
        found = f"{wrapper}, and in it " * bool(wrapper) + (listing(kinds, 10) or "nothing")
        raise UserError(f"{path}: plain tensors are expected, {expected}; found {found}.")
    # AveragedModel counts its updates; torch.compile puts its prefix before the names of any module.
    named = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items() if name != "n_averaged"}  # type: ignore
    while prefix := next((one for one in PREFIXES if named and all(name.startswith(one) for name in named)), None):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named, wrappers


def _are_tensors(value: Any) -> bool:
    """Whether a value is a mapping of names to tensors, each with a value in the file for every element."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(one, Tensor) for name, one in value.items())
        and all(one.layout == torch.strided and not one.is_quantized and not one.is_meta for one in value.values())
        and all(one.nbytes <= one.untyped_storage().nbytes() for one in value.values())
    )
