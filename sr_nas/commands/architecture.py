"""A network named on the command line: by its architecture, or by something that holds one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sr_nas.build import bound, build_network
from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.export.graph_file import countable
from sr_nas.export.model import load_model, model_metadata, trained_file
from sr_nas.export.network_file import CLASSIFICATION, load_classifier
from sr_nas.genotype import read_genotype
from sr_nas.options.classification import ClassifierNetworkOptions
from sr_nas.options.load import check_options, read_options
from sr_nas.options.signatures import section_model
from sr_nas.options.strict import Component
from sr_nas.options.train import NetworkOptions
from sr_nas.registry import CLASSIFIERS, NETWORKS, Registry
from sr_nas.runs.run_dir import NETWORK_BLOCK


def network_of(arch: str, scale: int, settings: Mapping[str, Any], where: str = "--") -> SRNetwork:
    """Build a super-resolution network by the name of its architecture, in any case.

    Args:
        arch: registered name.
        scale: upscaling factor.
        settings: its other arguments.
        where: what to put before the name of a wrong setting.

    Raises:
        UserError: an unknown architecture or a setting it refuses.
    """
    return _build(NETWORKS, arch, settings, where, scale=scale)


def classifier_of(arch: str, num_classes: int, settings: Mapping[str, Any]) -> Classifier:
    """Build a classifier; the rest is as in :func:`network_of`."""
    return _build(CLASSIFIERS, arch, settings, "--", num_classes=num_classes)


def is_classifier(arch: str) -> bool:
    """Whether the name, in any case, is a classifier's.

    Raises:
        UserError: it is no architecture's at all.
    """
    known = [*NETWORKS.names(), *CLASSIFIERS.names()]
    if arch.lower() not in map(str.lower, known):
        raise UserError(f"unknown architecture '{arch}'{nearest(arch, known)} Known: {listing(known)}.")
    return arch.lower() in map(str.lower, CLASSIFIERS.names())


def _build(registry: Registry[Any], arch: str, settings: Mapping[str, Any], where: str, **supplied: int) -> Any:
    names = {name.lower(): name for name in registry.names()}
    if arch.lower() not in names:
        raise UserError(f"unknown architecture '{arch}'{nearest(arch, names.values())} Known: {listing(names.values())}.")
    name = names[arch.lower()]
    try:
        section = section_model(registry, name, Component).model_validate(dict(settings))
    except ValidationError as error:
        found = error.errors()[0]
        address = ":".join(map(str, found["loc"]))
        raise UserError((f"{where}{address}: " if address else "") + found["msg"].removeprefix("Value error, ")) from error
    return registry.get(name)(**supplied, **section.arguments())  # type: ignore[attr-defined]


def any_network_in(path: Path, scale: int | None = None, num_classes: int | None = None) -> Network:
    """Build the network of any task that something on disk holds, as :func:`network_in` does those of super-resolution.

    Args:
        path: as of :func:`network_in`.
        scale: of a network of super-resolution.
        num_classes: of a classifier whose option file or genotype does not tell it, by default 10.

    Raises:
        UserError: as :func:`network_in`; or a scale for a classifier, or another number of classes than a file's.
    """
    classifier = _classifier_in(path / NETWORK_BLOCK if (path / NETWORK_BLOCK).is_file() else path, num_classes)
    if classifier is None:
        return network_in(path, scale)
    if scale is not None:
        raise UserError(f"--scale {scale}: {path} is a classifier, and has none.")
    if num_classes not in (None, classifier.num_classes):
        raise UserError(f"--num_classes {num_classes}: {path} tells {classifier.num_classes} classes apart.")
    return classifier


def _classifier_in(path: Path, num_classes: int | None) -> Classifier | None:
    """Return what :func:`any_network_in` does where that is a classifier."""
    if path.suffix == ".json":
        found = read_genotype(path)
        arch = found.get("arch") if isinstance(found, dict) else None
        return classifier_of(arch, num_classes or 10, {"genotype": found}) if arch is not None and is_classifier(arch) else None
    if path.suffix in (".yml", ".yaml"):
        raw = read_options(path)
        if raw.get("task") != CLASSIFICATION or "search" in raw:
            return None
        options = check_options(ClassifierNetworkOptions, {key: raw[key] for key in ("task", "network_g") if key in raw}, path)
        return bound(CLASSIFIERS, options.network_g)(num_classes=num_classes or 10)
    if path.is_dir() or path.suffix == ".safetensors":
        file = trained_file(path) if path.is_dir() else path
        return load_classifier(file) if model_metadata(file).get("task") == CLASSIFICATION else None
    return None


def network_in(path: Path, scale: int | None = None) -> SRNetwork:
    """Build the network that something on disk holds; its weights do not matter here.

    Args:
        path: the folder of a search or a training, an exported file, the option file of a training, or a
            genotype file.
        scale: upscaling factor for a genotype file, which names none, by default 2; its width and depth are those of the
            published network. Of anything else, what its factor must be.

    Raises:
        UserError: it does not exist, holds no network, or one of another factor.
    """
    if path.is_dir() and (path / NETWORK_BLOCK).is_file():
        path = path / NETWORK_BLOCK
    if path.suffix == ".json":
        return _of_genotype(path, scale or 2)
    if path.suffix in (".yml", ".yaml"):
        network = _of_options(path)
    elif path.suffix == ".pt" or (path.suffix == ".pth" and not model_metadata(path)):
        raise UserError(f"{path} does not describe itself: first tools/export.py --model {path} --arch NAME -o FILE.safetensors")
    else:
        network = countable(load_model(path))
    if scale not in (None, network.scale):
        raise UserError(f"--scale {scale}: {path} upscales by {network.scale}.")
    return network


def _of_genotype(path: Path, scale: int) -> SRNetwork:
    found = read_genotype(path)
    if not isinstance(found, dict) or "arch" not in found:
        raise UserError(f"{path} does not name its architecture; count it with --arch ... --genotype {path}.")
    try:
        return network_of(found["arch"], scale, {"genotype": found}, f"{path}: ")
    except UserError as error:
        raise UserError(
            f"{error} A genotype file tells no depth and no width, and was taken for the published ones: name the folder of its "
            f"search instead, or --arch {found['arch']} --genotype {path} with the network's settings."
        ) from error


def _of_options(path: Path) -> SRNetwork:
    raw = read_options(path)
    if "search" in raw or "network_g" not in raw:
        raise UserError(f"{path} is no option file of a training: a scale and a network_g are expected, and no search.")
    options = check_options(NetworkOptions, {key: raw[key] for key in ("scale", "network_g") if key in raw}, path)
    return build_network(options.network_g, options.scale)
