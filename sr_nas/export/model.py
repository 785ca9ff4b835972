"""Everything that a user may call a model: exported files, run folders, option files, genotypes and released weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError

from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.errors import UserError, absent, listing, nearest
from sr_nas.export.network_file import bare_tensors, load_any, load_network, read_file, read_metadata
from sr_nas.export.released import load_released
from sr_nas.genotype import NETWORK_BLOCK, read_genotype
from sr_nas.images.folders import note
from sr_nas.inference.optimize import countable
from sr_nas.options.load import check_options, problem_text, read_options
from sr_nas.options.sections import NetworkOptions
from sr_nas.options.strict import Component, FromRegistry, Strict, section_model
from sr_nas.registry import CLASSIFIERS, NETWORKS
from sr_nas.runs.files import kind_of
from sr_nas.runs.run_dir import OPTIONS

BEST, LAST = "best.safetensors", "last.safetensors"
SHIPPED = Path(__file__).parents[1] / "models"
"""Folder of the networks that ship with the package: NAME.safetensors, whose metadata have its figures, and its card NAME.md."""
DEFAULT_CLASSES = 10
"""Of a classifier whose option file or genotype does not say how many classes there are: CIFAR-10's."""


class _ClassifierOptions(Strict):
    """The part of an option file that says which classifier it is for."""

    network_g: Annotated[Component, FromRegistry(CLASSIFIERS)]


def shipped() -> list[str]:
    """Return the names of the networks that ship with the package, by scale."""
    return sorted((file.stem for file in SHIPPED.glob("*.safetensors")), key=lambda name: (name[-1], name))


def shipped_file(name: str) -> Path:
    """Return the file of a network that ships with the package; a UserError lists their names."""
    if name in (names := shipped()):
        return SHIPPED / f"{name}.safetensors"
    known = f"Networks by name: {listing(names)}" if names else "No network ships with this copy of it: name a file"
    raise UserError(f"'{name}' {absent(Path(name))} and is no network that ships with sr_nas{nearest(name, names)} {known}.")


def model_file(source: str | Path) -> Path:
    """Return the file or folder of a model: what is at this path, else the network of this name that ships with the package.

    Raises:
        UserError: nothing is there, and a name without an ending or a folder is none of those that ship.
    """
    path, name = Path(source), str(source)
    if os.path.lexists(path):
        if name in shipped():
            note(f"{name} is taken from {path.resolve()}, and not from the networks that ship with sr_nas")
        return path
    return path if path.suffix or name != path.name else shipped_file(name)


def shipped_networks() -> dict[str, dict[str, Any]]:
    """Return what is known of each network that ships with the package, by its name.

    The keys are those that ``tools/export.py --scores`` keeps: ``params``, ``macs_hr_1280x720``, ``latency_ms`` for an output of
    1280x720, on ``machine``, and ``sets``, name -> ``psnr`` in dB, ``ssim`` and the same of ``bicubic``; with ``architecture``,
    ``scale``, ``data`` and ``license``. What a file does not state is missing.
    """
    networks = {}
    for name in shipped():
        metadata = read_metadata(shipped_file(name))
        training = json.loads(metadata["training"])
        facts = {"architecture": metadata["architecture"], "scale": int(metadata["scale"])} | training.get("figures", {})
        networks[name] = facts | {key: training[key] for key in ("data", "license") if key in training}
    return networks


def load_model(source: str | Path, arch: str | None = None, genotype: Any = None) -> SRNetwork:
    """Return the trained network of a model, in eval mode, on the CPU.

    It maps RGB in 0..1, ``[N, 3, H, W]``, to ``[N, 3, scale*H, scale*W]``. ``sr_nas.load_network`` is this function.

    Args:
        source: the name of a network that ships with the package, such as ``"x2"`` (:func:`model_file`), an exported file
            (:func:`~sr_nas.export.network_file.load_network`), the folder of a training, whose best network is taken, or a
            ``.pth`` or ``.safetensors`` of released weights. What it is, its content says.
        arch: architecture of released weights; the others name their own.
        genotype: of released weights that do not contain it: names, a genotype file or a run folder.

    Raises:
        UserError: none of these, or released weights without ``arch``.
    """
    path = model_file(source)
    if path.suffix in (".json", ".yml", ".yaml"):
        raise UserError(
            f"{path} describes a network but holds no weights: train it with tools/train.py, and name the run's folder."
        )
    if path.is_dir():
        path = trained_file(path)
    if arch is None and genotype is None:
        return load_network(path)
    if kind_of(path) in ("onnx", "pt2") or read_metadata(path):
        raise UserError(f"{path} describes its network itself: leave --arch and --genotype out, which are for released weights.")
    if arch is None:
        raise UserError(f"--genotype: {path} does not say which network its tensors are of. Name it with --arch too.")
    return load_released(path, arch, read_genotype(genotype))


def load_structure(path: Path, scale: int | None = None, num_classes: int | None = None) -> Network:
    """Build the network that something on disk holds or describes, so that it can be counted; its weights do not matter.

    Args:
        path: whatever :func:`load_model` takes without ``arch``; the folder of a search; the option file of a training; or a
            genotype file, whose network gets the published width and depth.
        scale: upscaling factor of a genotype file, by default 2; of anything else, what its factor must be.
        num_classes: of a classifier's option file or genotype, by default 10; of anything else, what it must be.

    Raises:
        UserError: it does not exist, holds no network, or one of another factor or number of classes.
    """
    path = model_file(path)
    if (path / NETWORK_BLOCK).is_file():
        path = path / NETWORK_BLOCK
    network: Network
    if path.suffix == ".json":
        network = _from_genotype_file(path, scale, num_classes)
    elif path.suffix in (".yml", ".yaml"):
        network = _from_option_file(path, num_classes)
    else:
        network = countable(load_any(trained_file(path) if path.is_dir() else path))
    if isinstance(network, Classifier):
        if scale is not None:
            raise UserError(f"--scale {scale}: {path} is a classifier, and has none.")
        if num_classes not in (None, network.num_classes):
            raise UserError(f"--num_classes {num_classes}: {path} has {network.num_classes} classes.")
    elif isinstance(network, SRNetwork) and scale not in (None, network.scale):
        raise UserError(f"--scale {scale}: {path} upscales by {network.scale}.")
    return network


def build_by_name(
    arch: str, settings: Mapping[str, Any], scale: int | None = None, num_classes: int | None = None, where: str = "--"
) -> Network:
    """Build a network of any task by the name of its architecture, in any case.

    Args:
        arch: registered name.
        settings: its other arguments.
        scale: of a network of super-resolution, by default 4.
        num_classes: of a classifier, by default 10.
        where: what to put before the name of a wrong setting in messages.

    Raises:
        UserError: an unknown architecture or a setting it refuses.
    """
    known = {name.lower(): name for name in (*NETWORKS.names(), *CLASSIFIERS.names())}
    if arch.lower() not in known:
        raise UserError(f"unknown architecture '{arch}'{nearest(arch, known.values())} Known: {listing(known.values())}.")
    name = known[arch.lower()]
    is_classifier = name in CLASSIFIERS.names()
    if is_classifier and scale is not None:
        raise UserError(f"--scale {scale}: {arch} is a classifier, and has none.")
    registry = CLASSIFIERS if is_classifier else NETWORKS
    try:
        section = section_model(registry, name, Component).model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        address = ":".join(map(str, first["loc"]))
        raise UserError((f"{where}{address}: " if address else "") + problem_text(first)) from error
    build: Callable[..., Network] = registry.build(section)  # type: ignore[arg-type]
    return build(num_classes=num_classes or DEFAULT_CLASSES) if is_classifier else build(scale=scale or 4)


def _from_genotype_file(path: Path, scale: int | None, num_classes: int | None) -> Network:
    genotype = read_genotype(path)
    arch = genotype.get("arch") if isinstance(genotype, dict) else None
    if arch is None:
        raise UserError(f"{path} does not name its architecture; count it with --arch ... --genotype {path}.")
    try:
        scale = scale or (2 if arch in NETWORKS.names() else None)
        return build_by_name(arch, {"genotype": genotype}, scale, num_classes, f"{path}: ")
    except UserError as error:
        raise UserError(
            f"{error} A genotype file contains no depth and no width, and was taken for the published ones: name the folder of "
            f"its search instead, or --arch {arch} --genotype {path} with the network's settings."
        ) from error


def _from_option_file(path: Path, num_classes: int | None) -> Network:
    raw = read_options(path)
    if "search" in raw or "network_g" not in raw:
        raise UserError(f"{path} is no option file of a training: a scale and a network_g are expected, and no search.")
    if raw.get("task") == Classifier.task:
        classifier = check_options(_ClassifierOptions, {"network_g": raw["network_g"]}, path)
        return CLASSIFIERS.build(classifier.network_g)(num_classes=num_classes or DEFAULT_CLASSES)
    options = check_options(NetworkOptions, {key: raw[key] for key in ("scale", "network_g") if key in raw}, path)
    return NETWORKS.build(options.network_g)(scale=options.scale)


def trained_file(run: Path) -> Path:
    """Return the best network of a training's folder, or the last where none was validated.

    Raises:
        UserError: the folder holds neither.
    """
    if any(run.glob("*.py")):
        read_options(run / OPTIONS)  # which loads the plug-ins of the run
    for name in (BEST, LAST):
        if (run / name).is_file():
            return run / name
    if (run / "genotype.json").is_file():
        raise UserError(f"{run} is a search: it found a genotype, and no trained network. Train it first with tools/train.py.")
    raise UserError(f"{run} holds no trained network ({BEST} or {LAST}).")


def load_pretrained(network: Network, path: Path, key: str | None = None, strict: bool = True) -> str:
    """Give a network the weights that its training starts from; return a line that says which.

    Args:
        network: changed in place.
        path: an exported network, what a search left, or a ``.pth`` as BasicSR writes it.
        key: which of several networks in a ``.pth``; by default ``params_ema`` before ``params``.
        strict: refuse a file that lacks a tensor of the network, or has one of another shape or name.

    Raises:
        UserError: the file cannot be read, or not all tensors fit (strict), or none does, or the weights are not finite.
    """
    where = f"path.pretrain_network_g: {path}"
    metadata, content = read_file(path)
    # A .safetensors is of one network, and has no keys.
    tensors, wrappers = bare_tensors(content, path, None if kind_of(path) == "safetensors" else key)
    others = f"; it also has {listing(wrappers[1:])}" if wrappers[1:] else ""
    remark, stated = f" ({wrappers[0]} of it{others})" if others else "", metadata.get("scale")
    state = network.state_dict()
    fitting = {name: tensor for name, tensor in tensors.items() if name in state and state[name].shape == tensor.shape}
    misfits = [name for name in dict.fromkeys((*state, *tensors)) if name not in fitting]
    if (strict and misfits) or not fitting:
        differs = isinstance(network, SRNetwork) and stated not in (None, str(network.scale))
        scales = f" The file is of scale {stated} and the network of {network.scale}." if differs else ""
        advice = " Set path.strict_load_g to false to take those that fit." if fitting else ""
        raise UserError(f"{where} does not fit the network; missing or of another shape: {listing(misfits, 5)}.{scales}{advice}")
    if broken := [name for name, tensor in fitting.items() if not tensor.isfinite().all()]:
        raise UserError(f"{where} is of a diverged training: {broken[0]} is not finite.")
    network.load_state_dict(fitting, strict=False)
    new = [name for name in state if name not in fitting]
    fresh = f"; new: {listing(new, 5)}" if new else ""
    return f"starting from {path}{remark}: {len(fitting)} of {len(state)} tensors fit{fresh}"
