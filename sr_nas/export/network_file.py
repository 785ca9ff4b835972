"""What a network is, said among its tensors.

Some tools hand on a file's tensors and nothing else: spandrel never looks at the metadata of a safetensors file. Shapes
do not tell all of a network either; which cells feed a cell of DLSR, for one, shows nowhere. So files carry one more
tensor, :data:`SETTINGS`, of uint8: JSON in UTF-8, ``{"architecture": name, "settings": arguments}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from sr_nas.runs.files import replacing

SETTINGS = "sr_nas.settings"
"""Name of the tensor. No tensor of a module can have it, since no network of ours has a submodule of that name."""


def settings_tensor(network: Network) -> Tensor:
    """Return what builds the network again, as a tensor of bytes, ``[length]``, uint8."""
    text = json.dumps({"architecture": network.arch, "settings": network.settings()})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def read_settings(tensor: Tensor) -> tuple[str, dict[str, Any]]:
    """Return (architecture, settings) of a :func:`settings_tensor`.

    Raises:
        UserError: it holds something else.
    """
    try:
        # A caller may have cast all tensors of a file to half precision, which holds whole numbers up to 2048.
        found = json.loads(bytes(tensor.to("cpu", torch.uint8).tolist()))
        return str(found["architecture"]), dict(found["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the tensor {SETTINGS} does not describe a network: {error!r}.") from error


def network_from(architecture: str, settings: dict[str, Any]) -> SRNetwork:
    """Build a registered network of super-resolution by its settings, freshly initialised.

    Raises:
        UserError: an architecture that is not known here, or settings that it does not take.
    """
    return _built(NETWORKS.get(architecture), architecture, settings)


def classifier_from(architecture: str, settings: dict[str, Any]) -> Classifier:
    """Build a registered classifier; the rest is as in :func:`network_from`."""
    return _built(CLASSIFIERS.get(architecture), architecture, settings)


def _built(build: Callable[..., Any], architecture: str, settings: dict[str, Any]) -> Any:
    try:
        return build(**settings)
    except TypeError as error:
        raise UserError(f"{architecture} cannot be built from the settings {settings}: {error}.") from error


# MERGED sr_nas.export.network_file: One self-describing file per network: weights as safetensors, everything
# else in its metadata.


FORMAT = "sr_nas network 1"
CLASSIFICATION = "classification"
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def described(network: Network, training: dict[str, Any] | None = None) -> dict[str, str]:
    """Return what every file of a network says of it.

    The keys are ``format``, ``architecture``, ``settings`` (JSON: scale, sizes, genotype), ``scale``, ``value_range``,
    ``training`` (JSON: how it was trained, or of which released weights it is) and ``sr_nas_version``. A classifier has no
    ``scale``: it has ``task``, ``num_classes`` and ``input_size``, and its training says the mean and deviation of its images.
    """
    return {
        "format": FORMAT,
        "architecture": network.arch,
        "settings": json.dumps(network.settings()),
        **_of_its_task(network),
        "training": json.dumps(training or {}),
        "sr_nas_version": __version__,
    }


def _of_its_task(network: Network) -> dict[str, str]:
    if isinstance(network, Classifier):
        return {
            "task": CLASSIFICATION,
            "num_classes": str(network.num_classes),
            "input_size": str(network.input_size),
            "value_range": "0..1 RGB, less the mean of its training, divided by the deviation",
        }
    assert isinstance(network, SRNetwork)
    return {"scale": str(network.scale), "value_range": "0..1 RGB"}


def save_network(path: Path, network: Network, training: dict[str, Any] | None = None) -> None:
    """Write a network with all that is needed to build it again: its metadata are those of :func:`described`.

    Args:
        path: file to write, ``.safetensors``.
        network: an instance of a registered network.
        training: JSON-ready summary of its training.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors | {SETTINGS: settings_tensor(network)}, temporary, described(network, training))


def load_network(path: str | Path) -> SRNetwork:
    """Build the network of an exported file, with its weights, in eval mode, on the CPU.

    It takes RGB in 0..1, ``[N, 3, H, W]``, and gives ``[N, 3, scale*H, scale*W]``.

    Raises:
        UserError: the file is missing, damaged, no export of ours, a classifier, or of an architecture that is not known here.
    """
    metadata, tensors = _described(path)
    if metadata.get("task") == CLASSIFICATION:
        raise UserError(
            f"{path} is a classifier, {metadata['architecture']} of {metadata['num_classes']} classes: it says what is in an "
            "image and upscales none. Its accuracy is in the history of its training, and tools/complexity.py --model counts it."
        )
    return filled(network_from(metadata["architecture"], json.loads(metadata["settings"])), tensors, path)


def load_classifier(path: str | Path) -> Classifier:
    """Build the classifier of a file, with its weights, in eval mode, on the CPU.

    It takes RGB in 0..1, ``[N, 3, H, W]``, less ``mean`` and divided by ``std``, which :func:`read_metadata` has under
    ``training``, and gives logits, ``[N, num_classes]``.

    Raises:
        UserError: as :func:`load_network`; or it is no classifier.
    """
    metadata, tensors = _described(path)
    if metadata.get("task") != CLASSIFICATION:
        raise UserError(f"{path} is no classifier: it holds {metadata['architecture']}, which upscales images.")
    return filled(classifier_from(metadata["architecture"], json.loads(metadata["settings"])), tensors, path)


def _described(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    metadata, tensors = _read(Path(path))
    if "architecture" not in metadata:
        raise UserError(
            f"{path} is a safetensors file, but not a network exported by sr_nas: its metadata has no 'architecture'."
        )
    return metadata, tensors


def filled(network: AnyNetwork, tensors: Mapping[str, Tensor], path: str | Path) -> AnyNetwork:
    """Give a network the tensors of its file and return it in eval mode.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape.
    """
    try:
        misfit = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its architecture {network.arch}: {error}") from error
    if misfit.missing_keys or misfit.unexpected_keys:
        raise UserError(
            f"{path} does not fit its architecture {network.arch}; missing: {listing(misfit.missing_keys, 5) or 'nothing'}; "
            f"unexpected: {listing(misfit.unexpected_keys, 5) or 'nothing'}."
        )
    return network.eval()


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of an exported file (see :func:`described`).

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(Path(path))[0]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU, without the one that holds settings.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - it cannot be iterated
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}.") from error
    told = tensors.pop(SETTINGS, None)
    if told is not None and "architecture" in metadata:
        said = (metadata["architecture"], json.loads(metadata["settings"]))
        if read_settings(told) != said:
            raise UserError(f"{path} contradicts itself: its metadata and its tensor {SETTINGS} name different networks.")
    return metadata, tensors
