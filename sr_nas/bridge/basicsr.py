"""Import basicsr on current torchvision.

basicsr 1.4.2, its last release, imports ``torchvision.transforms.functional_tensor``, which torchvision removed in 0.17;
the one function it takes from there lives in ``torchvision.transforms.functional``.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any, Literal

import torch

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Genotype

_GONE = "torchvision.transforms.functional_tensor"


def import_basicsr() -> ModuleType:
    """Return the package ``basicsr``; after this, its submodules import as usual.

    Raises:
        UserError: basicsr is not installed.
    """
    try:
        importlib.import_module(_GONE)
    except ModuleNotFoundError as error:
        if error.name != _GONE:
            raise UserError(
                "basicsr and torchvision are not installed: pip install 'sr_nas[basicsr]' (Python 3.12 or older)."
            ) from error
        alias = ModuleType(_GONE)
        alias.rgb_to_grayscale = importlib.import_module("torchvision.transforms.functional").rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[_GONE] = alias
    try:
        return importlib.import_module("basicsr")
    except ModuleNotFoundError as error:
        if error.name != "basicsr":
            raise
        raise UserError("basicsr is not installed: pip install 'sr_nas[basicsr]' (Python 3.12 or older).") from error


# MERGED sr_nas.bridge.basicsr: basicsr's own networks for our tools: ``network_g: {type: basicsr.EDSR,
# ...}``, with the options of its class.


PREFIX = "basicsr."
# name -> (module, its word for the scale, scales): those that map RGB in 0..1 of any size to RGB that is ``scale`` times larger.
NETWORKS_THERE = {
    "EDSR": ("edsr_arch", "upscale", (2, 3, 4)),
    "MSRResNet": ("srresnet_arch", "upscale", (2, 3, 4)),
    "RCAN": ("rcan_arch", "upscale", (2, 3, 4)),
    "RRDBNet": ("rrdbnet_arch", "scale", (4,)),
    "SRVGGNetCompact": ("srvgg_arch", "upscale", (2, 3, 4)),
}
CHANNELS = ("num_in_ch", "num_out_ch")


def entry(name: str) -> Any:
    """Return a function (scale, options of the class) -> network, for a name such as ``basicsr.EDSR``.

    The options are those of basicsr's class but its word for the scale; the numbers of channels, which are 3, may be left out.

    Raises:
        UserError: no such network there, or basicsr is not installed.
    """
    own = name.removeprefix(PREFIX)
    if own not in NETWORKS_THERE:
        raise UserError(
            f"unknown network '{name}'{nearest(own, NETWORKS_THERE)} Of basicsr's own: "
            f"{listing([PREFIX + known for known in NETWORKS_THERE])}."
        )
    import_basicsr()
    module, scale_word, scales = NETWORKS_THERE[own]
    theirs = getattr(importlib.import_module(f"basicsr.archs.{module}"), own)
    ours = type(own, (theirs, SRNetwork), {"settings": _settings, "arch": name, "genotype": Genotype(name, ())})

    def build(*, scale: int, **options: Any) -> SRNetwork:
        if scale not in scales:
            raise UserError(f"network_g: {name} upscales by {listing(map(str, scales))}, not by {scale}.")
        # basicsr checks none of its options, and what is wrong with them may show in the first pass alone.
        try:
            network: SRNetwork = ours(**{scale_word: scale}, **options)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                output = network(torch.zeros(1, 3, 8, 8))
        except Exception as error:
            given = ", ".join(f"{key}: {value}" for key, value in options.items())
            raise UserError(f"network_g: basicsr cannot build {name} of {given} ({type(error).__name__}: {error}).") from error
        # Built on the meta device, to be counted, it has no values.
        if not output.is_meta and not output.isfinite().all():
            raise UserError(f"network_g: {name} of these options gives output that is not finite: look at img_range.")
        network.scale = scale
        network.options = options  # type: ignore[assignment]
        return network

    parameters = [p for p in inspect.signature(theirs).parameters.values() if p.name != scale_word]
    build.__signature__ = inspect.Signature([_described(parameter) for parameter in parameters])  # type: ignore[attr-defined]
    build.__annotations__ = {parameter.name: _type_of(parameter) for parameter in parameters}
    build.__doc__ = f"basicsr's {own}."
    return build


def _settings(self: Any) -> dict[str, Any]:
    return {"scale": self.scale, **self.options}


def _described(parameter: inspect.Parameter) -> inspect.Parameter:
    default = 3 if parameter.name in CHANNELS else parameter.default
    return parameter.replace(default=default, annotation=_type_of(parameter), kind=inspect.Parameter.KEYWORD_ONLY)


def _type_of(parameter: inspect.Parameter) -> Any:
    """The type of a parameter's default, since basicsr does not state types; a number may always have decimals."""
    if parameter.name in CHANNELS:
        return Literal[3]
    kind = type(parameter.default)
    if parameter.name == "res_scale":
        return float
    return tuple[float, ...] if kind is tuple else kind if kind in (int, float, str, bool) else Any
