"""Self-describing files of one network: ``.safetensors``, and ``.pth`` for BasicSR and the tools of its family.

The metadata (:func:`describe_network`) say everything that builds the network again. Some tools hand on a file's tensors and
nothing else - spandrel is one - and shapes do not tell all: which cells feed a cell of DLSR shows in none. Files therefore carry
one more tensor, :data:`SETTINGS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sr_nas import __version__
from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.registry import CLASSIFIERS, NETWORKS
from sr_nas.runs.checkpoint import load_tensors
from sr_nas.runs.files import replacing

FORMAT = "sr_nas network 1"
CLASSIFICATION = "classification"
SETTINGS = "sr_nas.settings"
"""Name of the tensor, uint8, of JSON in UTF-8: ``{"architecture": name, "settings": arguments}``. No network of ours has a
submodule ``sr_nas``."""
PTH_METADATA = "sr_nas"
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def describe_network(network: Network, training: dict[str, Any] | None = None) -> dict[str, str]:
    """Return the metadata of a network's file.

    The keys are ``format``, ``architecture``, ``settings`` (JSON: scale, sizes, genotype), ``scale``, ``value_range``,
    ``training`` (JSON: how it was trained, or from which released weights it is) and ``sr_nas_version``. A classifier has
    ``task``, ``num_classes`` and ``input_size`` instead of ``scale``, and the mean and deviation of its images in ``training``.
    """
    if isinstance(network, Classifier):
        of_task = {
            "task": CLASSIFICATION,
            "num_classes": str(network.num_classes),
            "input_size": str(network.input_size),
            "value_range": "0..1 RGB, less the mean of its training, divided by the deviation",
        }
    else:
        assert isinstance(network, SRNetwork)
        of_task = {"scale": str(network.scale), "value_range": "0..1 RGB"}
    return {
        "format": FORMAT,
        "architecture": network.arch,
        "settings": json.dumps(network.settings()),
        **of_task,
        "training": json.dumps(training or {}),
        "sr_nas_version": __version__,
    }


def settings_tensor(network: Network) -> Tensor:
    """Return the tensor :data:`SETTINGS` of a network, ``[length]``, uint8."""
    text = json.dumps({"architecture": network.arch, "settings": network.settings()})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def read_settings(tensor: Tensor) -> dict[str, str]:
    """Return ``architecture`` and ``settings`` of a :func:`settings_tensor`, as :func:`describe_network` has them.

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
    registry = CLASSIFIERS if metadata.get("task") == CLASSIFICATION else NETWORKS
    try:
        return registry.get(architecture)(**settings)
    except TypeError as error:
        raise UserError(f"{architecture} cannot be built from the settings {settings}: {error}.") from error


def save_network(path: Path, network: Network, training: dict[str, Any] | None = None) -> None:
    """Write a network as ``.safetensors``.

    Args:
        path: file to write.
        network: an instance of a registered network.
        training: JSON-ready summary of its training.
    """
    with replacing(path) as temporary:
        save_file(_tensors(network) | {SETTINGS: settings_tensor(network)}, temporary, describe_network(network, training))


def save_pth(path: Path, network: SRNetwork, training: dict[str, Any] | None = None) -> None:
    """Write a network as ``.pth``: ``{"params": tensors, "state_dict": tensors and settings, "sr_nas": metadata}``.

    BasicSR reads ``params`` strictly, which therefore holds the network's tensors alone. Spandrel takes ``state_dict`` before
    ``params``, and finds the settings there. The tensors are stored once.
    """
    tensors = _tensors(network)
    content = {
        "params": tensors,
        "state_dict": tensors | {SETTINGS: settings_tensor(network)},
        PTH_METADATA: describe_network(network, training),
    }
    with replacing(path) as temporary:
        torch.save(content, temporary)


def _tensors(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def load_any(path: str | Path) -> Network:
    """Build the network of any task in an exported ``.safetensors`` or ``.pth`` file, in eval mode, on the CPU.

    A classifier maps RGB in 0..1, ``[N, 3, H, W]``, less ``mean`` and divided by ``std``, which :func:`read_metadata` has under
    ``training``, to logits, ``[N, num_classes]``.

    Raises:
        UserError: the file is missing, damaged, no export of ours, or of an architecture that is not known here.
    """
    metadata, tensors = read_file(Path(path))
    if "architecture" not in metadata:
        if Path(path).suffix in (".pth", ".pt"):
            raise UserError(f"{path} does not say what network it holds: name it with --arch, for example --arch imdn.")
        raise UserError(
            f"{path} is a safetensors file, but not a network exported by sr_nas: its metadata has no 'architecture'."
        )
    network: Network = build_network(metadata)
    return load_state(network, tensors, path)


def load_network(path: str | Path) -> SRNetwork:
    """Build the network of an exported ``.safetensors`` or ``.pth`` file, with its weights, in eval mode, on the CPU.

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
    assert isinstance(network, SRNetwork)
    return network


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
    """Return the metadata of a ``.safetensors`` or ``.pth`` file (see :func:`describe_network`); none for others' files.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_file(Path(path))[0]


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors, on the CPU, of a ``.safetensors`` or of a ``.pth`` that :func:`save_pth` wrote.

    Both are empty for a ``.pth`` by others.

    Raises:
        UserError: the file is missing, damaged, would run code, or contradicts itself.
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
            metadata = dict(stream.metadata() or {})
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it cannot be iterated
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from error
    settings = tensors.pop(SETTINGS, None)
    if settings is not None and "architecture" in metadata:
        stated = read_settings(settings)
        if stated != {key: metadata[key] for key in stated}:
            raise UserError(f"{path} contradicts itself: its metadata and its tensor {SETTINGS} name different networks.")
    return metadata, tensors
