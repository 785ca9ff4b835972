"""Peak memory of tensors at any image size: of inference on the meta device, of a training step by running a tiny one."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_activation_bytes(network: nn.Module, size: tuple[int, int], channels: int = 3) -> int:
    """Return the most bytes of activations that are alive at once while the network runs on one image.

    Single precision, batch 1, eval mode, no gradients; input and output included, parameters and buffers not, nor what
    allocators and convolution libraries need on top. A copy of the network runs on PyTorch's meta device, which has shapes but
    no values; there a BatchNorm returns statistics of 8 bytes per channel that real devices leave out. One that needs values
    runs on the CPU.

    Args:
        network: takes ``[1, channels, H, W]``.
        size: (height, width) of the input in pixels.
        channels: input channels.
    """
    try:
        on_meta = copy.deepcopy(network).to("meta", torch.float32).eval()
        return tracked_peak(on_meta, torch.empty(1, channels, *size, device="meta"))
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        return tracked_peak(copy.deepcopy(network).to("cpu", torch.float32).eval(), torch.zeros(1, channels, *size))


def tracked_peak(network: nn.Module, x: Tensor) -> int:
    """Run a network on ``x``, on whatever device both are, and return the peak bytes of activations, ``x`` included."""
    tracker = StorageTracker([*network.parameters(), *network.buffers()])
    tracker.follow(x)
    with torch.no_grad(), tracker:
        network(x)
    return tracker.peak


PROBE = (17, 19)
"""Height and width of the images of a tiny step: primes that divide neither channels nor kernels."""


def extrapolated_peak(run: Callable[[], Any], pixels: int, ignored: Iterable[Tensor] = (), inputs: Iterable[Tensor] = ()) -> int:
    """Run a step on one image of :data:`PROBE` pixels and return the peak bytes of tensors that it would have on more pixels.

    A tensor whose size is a multiple of the pixels of the probe grows with them; others, such as gradients of weights, do
    not, nor do the small maps of layers with strides.

    Of existing tensors, ``ignored`` do not count and ``inputs`` do; ``pixels`` are those of all images of a batch together.
    """
    probe = PROBE[0] * PROBE[1]
    tracker = StorageTracker(ignored, lambda size: size if size % probe else size // probe * pixels)
    for tensor in inputs:
        tracker.follow(tensor)
    with tracker:
        run()
    return tracker.peak


class StorageTracker(TorchDispatchMode):
    """Adds up the storages of all tensors that operations return, except ``ignored`` ones, until they are freed.

    ``counted`` maps the bytes of a storage to those that it counts for.
    """

    def __init__(self, ignored: Iterable[Tensor], counted: Callable[[int], int] = int) -> None:
        super().__init__()
        self.counted = counted
        self.ignored = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in ignored)}
        self.alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.bytes = self.peak = 0

    def follow(self, tensor: Tensor) -> None:
        # PyTorch hands out the same Python object for a storage as long as the storage lives.
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self.alive or key in self.ignored:
            return
        size = self.counted(storage.nbytes())

        def freed(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self.alive[key]
            self.bytes -= size

        self.alive[key] = weakref.ref(storage, freed)
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
