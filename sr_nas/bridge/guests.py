"""Networks of others that spandrel opens, as networks of ours: ``spandrel.SPAN``, ``spandrel.PLKSR.RealPLKSR`` and the like.

A file of their tensors is a ``--model`` like any other. Their class and its arguments are settings, so that what is exported of
them describes itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.complexity.receptive_field import receptive_field
from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, first_line
from sr_nas.genotype import Genotype
from sr_nas.inference.tiles import tile_overlap

try:
    import spandrel
except ModuleNotFoundError as error:
    if error.name != "spandrel":
        raise
    raise UserError("spandrel, which knows the networks of others, is not installed: pip install 'sr_nas[spandrel]'.") from error

PREFIX = "spandrel."
SCALES = (2, 3, 4)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Identity, nn.Dropout)
UNIFORM = (*ACTIVATIONS, nn.BatchNorm2d, nn.PixelShuffle, nn.Upsample)
"""Modules that in evaluation do the same at every place, as convolutions of stride 1 do."""


class Guest(SRNetwork):
    """A network of spandrel: RGB in 0..1 of any size, ``[N, 3, H, W]``, to ``[N, 3, scale*H, scale*W]``, not clipped.

    Training-time branches of SPAN's convolutions are folded, so that it is counted and runs as it is published (481 K
    parameters at x2). An image that does not have the size that the network requires is padded at the right and at the bottom
    by reflection, and where it is too small for that by its edge, and the output is cropped, as spandrel does.

    Args:
        found: what spandrel makes of a file's tensors.

    Raises:
        UserError: it does something else than to upscale RGB by 2, 3 or 4.
    """

    def __init__(self, found: Any) -> None:
        super().__init__()
        network = found.model
        channels = (found.input_channels, found.output_channels)
        if found.purpose != "SR" or found.scale not in SCALES or channels != (3, 3):
            raise UserError(
                f"it is {found.architecture.name}, which spandrel describes as {found.purpose} by {found.scale} of {channels[0]} "
                f"to {channels[1]} channels; super-resolution of RGB by 2, 3 or 4 is expected."
            )
        self.arch, self.scale = PREFIX + found.architecture.id, found.scale
        if type(network).__name__ != found.architecture.id:
            self.arch += f".{type(network).__name__}"
        self.genotype = Genotype(self.arch, ())
        kinds = (int, float, str, list, tuple, type(None))  # others, such as a class of norms, are defaults
        self.options = {key: value for key, value in network.hyperparameters.items() if isinstance(value, kinds)}
        self.requirements = found.size_requirements
        self._call = found._call_fn  # what spandrel's own call applies: some networks return more than the image
        self.guest = _folded(network)
        leaves = [module for module in self.guest.modules() if next(module.children(), None) is None]
        grid = self.requirements.multiple_of > 1 or self.requirements.square
        alike = all(isinstance(one, UNIFORM) or (isinstance(one, nn.Conv2d) and max(one.stride) == 1) for one in leaves)
        self._uniform = alike and not grid and found.tiling is spandrel.ModelTiling.SUPPORTED
        self.eval()

    def settings(self) -> dict[str, Any]:
        """The arguments of :func:`entry`'s function, JSON-ready."""
        return {"scale": self.scale, "hyperparameters": self.options}

    def forward(self, x: Tensor) -> Tensor:
        """Map RGB in 0..1 to RGB."""
        height, width = x.shape[2:]
        if not self.requirements.none:
            right, below = self.requirements.get_padding(width, height)
            mirrored = min(right, width - 1), min(below, height - 1)
            x = F.pad(x, (0, mirrored[0], 0, mirrored[1]), "reflect")
            x = F.pad(x, (0, right - mirrored[0], 0, below - mirrored[1]), "replicate")
        y: Tensor = self._call(self.guest, x.clone())  # RCAN scales its input in place
        return y if self.requirements.none else y[..., : self.scale * height, : self.scale * width]

    @cached_property
    def _field(self) -> int | None:
        """Receptive field in LR pixels; ``None`` where it is the whole image, or not to be measured."""
        try:
            return receptive_field(self, most=None if self._uniform else 576)  # attention takes its time
        except (ValueError, RuntimeError):  # NaN where there should be none, or a layer that takes no doubles
            return None

    @property
    def pools_globally(self) -> bool:
        """Whether tiles may change the output: true unless all layers do the same everywhere and look at surroundings alone."""
        return not self._uniform or self._field is None

    @property
    def tile_overlap(self) -> int:
        """LR pixels around a tile: half the measured receptive field, or the reach of the convolutions if it is all."""
        return tile_overlap(self.guest) if self._field is None else self._field // 2


def _folded(network: nn.Module) -> nn.Module:
    """Replace each convolution of SPAN, three branches in training, by the one that it evaluates, in float64; in place."""
    child: Any
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "update_params") and not child.has_relu:
                kind = child.eval_conv.weight.dtype
                child.double().update_params()
                setattr(module, name, child.eval_conv.to(kind))
    return network


def opened(candidates: list[Mapping[str, Tensor]], path: Path) -> Guest | None:
    """Return the network of a file's tensors, in eval mode, on the CPU; ``None`` where spandrel does not know it.

    Args:
        candidates: the tensors as the file names them, and less a prefix: names may begin with ``model.`` of themselves.
        path: the file, for messages.

    Raises:
        UserError: they do not fit the network that spandrel takes them for, or as :class:`Guest` has it.
    """
    supports = spandrel.MAIN_REGISTRY.architectures("detection")
    fits = ((one.architecture, tensors) for tensors in candidates for one in supports if one.detect(dict(tensors)))
    architecture, tensors = next(fits, (None, {}))
    if architecture is None:
        return None
    try:
        return Guest(architecture.load(dict(tensors)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # spandrel's architectures raise whatever they meet in tensors that do not fit
        raise UserError(f"{path}: spandrel takes it for {architecture.name} and cannot load it: {first_line(error)}") from error


def entry(name: str) -> Callable[..., Guest]:
    """Return a function (scale, hyperparameters) -> network, freshly initialised, for a name such as ``spandrel.SPAN``.

    Raises:
        UserError: spandrel has no such network. The function raises it for hyperparameters of another scale.
    """
    architecture, _, class_name = name.removeprefix(PREFIX).partition(".")
    support = spandrel.MAIN_REGISTRY.get(architecture)
    classes = {} if support is None else vars(sys.modules[type(support.architecture).__module__])
    wanted = class_name or architecture
    found = next((one for one in classes.values() if isinstance(one, type) and one.__name__ == wanted), None)
    if found is None or not hasattr(found, "hyperparameters"):
        raise UserError(f"unknown network '{name}': spandrel {spandrel.__version__} has no such class.")

    def build(*, scale: int, hyperparameters: dict[str, Any]) -> Guest:
        with torch.device("cpu"):  # some of their constructors need values, which the meta device lacks
            network = Guest(support.architecture.load(dict(found(**hyperparameters).state_dict())))
        if network.scale != scale:
            raise UserError(f"{name} of these hyperparameters upscales by {network.scale}, not by {scale}.")
        return network

    return build
