"""Memory that a network's activations take at any image size, without computing."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_activation_bytes(network: nn.Module, size: tuple[int, int], channels: int = 3) -> int:
    """Return the most bytes of activations that are alive at once while the network runs on one image.

    It is what PyTorch's tensors hold in inference: single precision, batch 1, eval mode, no gradients, input and output
    included, parameters and buffers not. A view shares its tensor's memory and an in-place operation takes none. What
    allocators keep and round up, and the workspaces of convolution libraries, come on top. The network runs on PyTorch's
    meta device, which knows shapes but no values; there a BatchNorm returns statistics of 8 bytes a channel that real devices
    leave out.

    Args:
        network: takes ``[1, channels, H, W]``; left as it is.
        size: (height, width) of the input in pixels.
        channels: input channels.
    """
    network = copy.deepcopy(network).to("meta", torch.float32).eval()
    return tracked_peak(network, torch.empty(1, channels, *size, device="meta"))


def tracked_peak(network: nn.Module, x: Tensor) -> int:
    """Run a network on ``x``, on whatever device both are, and return the peak bytes of activations, ``x`` included."""
    tracker = _Tracker([*network.parameters(), *network.buffers()])
    tracker.follow(x)
    with torch.no_grad(), tracker:
        network(x)
    return tracker.peak


class _Tracker(TorchDispatchMode):
    """Follows the storages of all tensors that operations return, until they die."""

    def __init__(self, ignored: Sequence[Tensor]) -> None:
        super().__init__()
        self.ignored = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in ignored)}
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.bytes = self.peak = 0

    def follow(self, tensor: Tensor) -> None:
        # PyTorch hands out the same Python object for a storage as long as the storage lives.
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.alive or key in self.ignored:
            return

        def died(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self.alive[key]
            self.bytes -= size

        self.alive[key] = weakref.ref(storage, died)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.follow(leaf)
        return result
