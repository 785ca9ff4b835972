"""A network made ready for inference on the CPU: the same function, to rounding, in fewer and better calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp

from sr_nas.contracts import SRNetwork
from sr_nas.inference.optimize import folded
from sr_nas.inference.packed import is_available
from sr_nas.inference.rewriting import rewrite, traced

EXAMPLE = (1, 3, 21, 34)
"""The image at which shapes are looked at and the result is compared; no side of it is special to a network."""
TOLERANCE = 1e-4
"""Largest difference, relative to the largest output, that may be rounding: a wrong graph is off by far more."""
WORTH = 4 * 10**9
"""Parameters times LR pixels, about multiply-adds, from which preparing pays: it takes as long as these do."""


def prepared(network: nn.Module) -> nn.Module:
    """Return a network that equals ``network`` in eval mode, to rounding (1e-5 for outputs of 0..1), and is quicker on the CPU.

    BatchNorms are part of their convolutions; tensors are channels_last; weights are laid out for oneDNN; activations and sums
    are taken by the convolution before them; concatenations behind which a 1x1 convolution follows are not made where the parts
    are wide; attention takes fewer passes (:mod:`sr_nas.inference.packed`).

    A graph of the network is traced (``torch.fx``), rewritten, and compared with the network at a small image. A network
    that cannot be traced so, such as one whose forward asks for the size of its input, has hooks or runs a file, is
    returned as it is, and so is any where PyTorch comes without oneDNN. One whose graph gives something else is returned as it
    is with a warning.

    Args:
        network: an :class:`~sr_nas.contracts.SRNetwork`, float32 on the CPU; anything else is returned as it is. It is left
            as it is, and what is changed in it later does not change what was returned.
    """
    if not isinstance(network, SRNetwork) or not is_available() or not _is_plain(network):
        return network
    fewer = folded(network)
    try:
        graph = traced(fewer)
    except Exception:  # Whatever tracing meets in a network of another's making.
        return network
    with torch.inference_mode():
        image = torch.rand(EXAMPLE, generator=torch.Generator().manual_seed(0))
        expected = fewer(image)
        ShapeProp(graph).propagate(image)
        rewrite(graph)
        difference = (graph(image) - expected).abs().max()
    # Written so that NaN is refused too.
    if difference <= TOLERANCE * expected.abs().max().clamp_min(1.0):
        return graph
    if expected.isfinite().all():
        warnings.warn(
            f"{type(network).__name__} runs as it is, up to twice as slowly as it could: the graph that torch.fx traces of it "
            "gives something else, as its forward depends on more than its input.",
            stacklevel=2,
        )
    return network


def quickest(network: nn.Module, pixels: int) -> nn.Module:
    """Return the network or its :func:`prepared` one, whichever sooner upscales ``pixels`` more LR pixels.

    A network is prepared once it has, or will have, been given as much to do as that takes (:data:`WORTH`), and again after
    its weights, its settings or its modules were changed.
    """
    if not isinstance(network, SRNetwork) or not _is_plain(network):
        return network
    state = _KEPT.get(network)
    if state is None or not state.is_of(network):
        state = _KEPT[network] = _State(_signature(network), [tensor.detach().clone() for tensor in _tensors(network)])
    state.work += pixels * sum(parameter.numel() for parameter in network.parameters())
    if state.work >= WORTH and not state.tried:
        found = prepared(network)
        # A network that held itself here would live for ever.
        state.tried, state.prepared = True, None if found is network else found
    return state.prepared or network


@dataclass
class _State:
    """A network as it was when it was last run, and what was made of it."""

    signature: list[str]
    tensors: list[Tensor]
    work: int = 0
    tried: bool = False
    prepared: nn.Module | None = None

    def is_of(self, network: nn.Module) -> bool:
        """Tell whether nothing has changed. Values are compared: no counter notices each way in which they change."""
        tensors = list(_tensors(network))
        return self.signature == _signature(network) and all(map(torch.equal, self.tensors, tensors))


_KEPT: WeakKeyDictionary[nn.Module, _State] = WeakKeyDictionary()


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _signature(network: nn.Module) -> list[str]:
    return [f"{name} {type(module).__qualname__} {module.extra_repr()}" for name, module in network.named_modules()]


def _is_plain(network: nn.Module) -> bool:
    tensors = list(network.parameters())
    hooks = (module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    return bool(tensors) and not any(hooks) and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
