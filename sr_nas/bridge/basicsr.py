"""Networks shared with BasicSR: its own in our tools, as ``network_g: {type: basicsr.EDSR, ...}``, and ours in its registry.

``python -m sr_nas.bridge.basicsr -opt file.yml`` is stock BasicSR's own training with our networks. The arguments are those of
``basicsr/train.py``; runs go to ``experiments`` in the current folder. With ``num_gpu: 0`` it trains on the CPU.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Genotype
from sr_nas.registry import NETWORKS

PREFIX = "basicsr."
# name -> (module, its parameter for the scale, scales): networks that map RGB in 0..1 of any size to RGB ``scale`` times larger.
NETWORKS_THERE = {
    "EDSR": ("edsr_arch", "upscale", (2, 3, 4)),
    "MSRResNet": ("srresnet_arch", "upscale", (2, 3, 4)),
    "RCAN": ("rcan_arch", "upscale", (2, 3, 4)),
    "RRDBNet": ("rrdbnet_arch", "scale", (4,)),
    "SRVGGNetCompact": ("srvgg_arch", "upscale", (2, 3, 4)),
}
CHANNELS = ("num_in_ch", "num_out_ch")
REMOVED = "torchvision.transforms.functional_tensor"
"""A module that basicsr 1.4.2, its last release, imports and torchvision 0.17 removed."""


def import_basicsr() -> ModuleType:
    """Return the package ``basicsr``, imported with any version of torchvision; its submodules then import as usual.

    Raises:
        UserError: basicsr is not installed.
    """
    try:
        if REMOVED not in sys.modules and importlib.util.find_spec(REMOVED) is None:
            alias = ModuleType(REMOVED)
            # The one function that basicsr takes from there has moved.
            alias.rgb_to_grayscale = importlib.import_module("torchvision.transforms.functional").rgb_to_grayscale  # type: ignore[attr-defined]
            sys.modules[REMOVED] = alias
        return importlib.import_module("basicsr")
    except ModuleNotFoundError as error:
        if error.name not in ("basicsr", "torchvision"):
            raise
        raise UserError(f"{error.name} is not installed: pip install 'sr_nas[basicsr]' (Python 3.12 or older).") from error


def register_networks() -> None:
    """Enter every network of ours in basicsr's ``ARCH_REGISTRY``, so that a stock BasicSR option file can name it::

        network_g: {type: IMDN, scale: 2, nf: 64, num_blocks: 6, genotype: [dsconv_3x3, conv_3x3, dsconv_3x3_bn, dsconv_5x5]}

    Raises:
        UserError: basicsr is not installed.
    """
    import_basicsr()
    registry = importlib.import_module("basicsr.utils.registry").ARCH_REGISTRY
    for name in NETWORKS.names():
        if name not in registry:
            registry.register(NETWORKS.get(name))


def entry(name: str) -> Any:
    """Return a function (scale, options of the class) -> network, for a name such as ``basicsr.EDSR``.

    Its signature has the parameters of basicsr's class but the scale, typed by their defaults; channels are 3.

    Raises:
        UserError: no such network there, or basicsr is not installed. The function raises it for options that basicsr refuses.
    """
    class_name = name.removeprefix(PREFIX)
    if class_name not in NETWORKS_THERE:
        raise UserError(
            f"unknown network '{name}'{nearest(class_name, NETWORKS_THERE)} Of basicsr's own: "
            f"{listing([PREFIX + known for known in NETWORKS_THERE])}."
        )
    import_basicsr()
    module, scale_parameter, scales = NETWORKS_THERE[class_name]
    original = getattr(importlib.import_module(f"basicsr.archs.{module}"), class_name)
    members = {
        "settings": lambda self: {"scale": self.scale, **self.options},
        "arch": name,
        "genotype": Genotype(name, ()),
    }
    adapted = type(class_name, (original, SRNetwork), members)

    def build(*, scale: int, **options: Any) -> SRNetwork:
        if scale not in scales:
            raise UserError(f"network_g: {name} upscales by {listing(map(str, scales))}, not by {scale}.")
        # basicsr checks none of its options, and wrong ones may show in the first forward pass alone.
        try:
            network: SRNetwork = adapted(**{scale_parameter: scale}, **options)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                output = network(torch.zeros(1, 3, 8, 8))
        except Exception as error:
            words = ", ".join(f"{key}: {value}" for key, value in options.items())
            raise UserError(f"network_g: basicsr cannot build {name} of {words} ({type(error).__name__}: {error}).") from error
        # On the meta device, where networks are counted, there are no values.
        if not output.is_meta and not output.isfinite().all():
            raise UserError(f"network_g: {name} of these options gives output that is not finite: look at img_range.")
        network.scale = scale
        network.options = options  # type: ignore[assignment]
        return network

    parameters = [_typed(p) for p in inspect.signature(original).parameters.values() if p.name != scale_parameter]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    build.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    build.__doc__ = f"basicsr's {class_name}."
    return build


def _typed(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a keyword parameter with the type of its default, since basicsr states no types."""
    default: Any = parameter.default
    annotation: Any = type(default)
    if parameter.name in CHANNELS:
        default, annotation = 3, Literal[3]
    elif parameter.name == "res_scale":
        annotation = float  # its default is a whole number
    elif annotation is tuple:
        annotation = tuple[float, ...]
    elif annotation not in (int, float, str, bool):
        annotation = Any
    return parameter.replace(default=default, annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY)


def train() -> int:
    """Run BasicSR's training pipeline on the arguments of the command line; return the exit code."""
    try:
        register_networks()
    except UserError as error:
        print(f"sr_nas.bridge.basicsr: {error}", file=sys.stderr)
        return 1
    importlib.import_module("basicsr.train").train_pipeline(str(Path.cwd()))
    return 0


if __name__ == "__main__":
    sys.exit(train())
