"""Branches beside the 3x3 convolutions of a network while it is trained (``train.reparam``), and one convolution of them after.

Branches without BatchNorm are added as kernels and run as one convolution, as by Hu et al. (CVPR 2022), with the same outputs and
gradients. At the border too, where the output of a first 1x1 convolution is padded with its bias (ECB) or its input with zeros
(Conv3XC): else no convolution would be their sum.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import Network
from sr_nas.errors import UserError

# Sobel in x and in y, and Laplace; each sums to 0.
EDGES = ((1, 0, -1), (2, 0, -2), (1, 0, -1)), ((1, 2, 1), (0, 0, 0), (-1, -2, -1)), ((0, 1, 0), (1, -4, 1), (0, 1, 0))


class Branched(nn.Module):
    """A 3x3 convolution of stride 1 that is trained as a sum of branches.

    ``inputs`` and ``outputs`` are its channels; the 3x3 convolution among the branches has ``gain`` times as many. Without
    ``bias`` no branch has one.
    """

    training_only = True
    needs_bias = False

    def __init__(self, inputs: int, outputs: int, bias: bool, gain: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(gain * inputs, gain * outputs, 3, padding=1, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    @abstractmethod
    def kernel(self) -> Tensor:
        """Return the weight of the one convolution, ``[outputs, inputs, 3, 3]``, differentiably."""

    @abstractmethod
    def constant(self) -> Tensor:
        """Return what the branches add to the bias, ``[outputs]``."""

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the one convolution."""
        return self.kernel(), None if self.bias is None else self.bias + self.constant()

    def lifted(self, weight: Tensor) -> Tensor:
        """Return what ``conv.weight`` must grow by, for the kernel to grow by ``weight``."""
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H, W]``."""
        with torch.autocast(x.device.type, enabled=False):  # kernels that nearly cancel are not added in 16 bits
            weight, bias = self.merged()
        return F.conv2d(x, weight, bias, padding=1)

    @torch.no_grad()
    def imitate(self, conv: nn.Conv2d) -> Branched:
        """Give the 3x3 branch what the other branches lack of a convolution; return the module, on its device."""
        self.double()
        self.conv.weight.add_(self.lifted(conv.weight.cpu() - self.kernel()))
        if self.bias is not None:
            self.bias.add_(cast(Tensor, conv.bias).cpu() - self.constant())
        return self.to(conv.weight).train(conv.training)

    @torch.no_grad()
    def reparameterize(self) -> nn.Conv2d:
        """Return the one convolution that the module is in evaluation mode, computed in float64."""
        weight, bias = copy.deepcopy(self).to("cpu", torch.float64).merged()
        # Without initialisation, which would draw random numbers of the training.
        conv = nn.utils.skip_init(nn.Conv2d, *weight.shape[1::-1], 3, padding=1, bias=bias is not None)
        for parameter, value in zip(conv.parameters(), (weight, bias), strict=False):
            parameter.copy_(cast(Tensor, value))
        return conv.to(self.conv.weight)


class ECB(Branched):
    """Edge-oriented convolution block (Zhang et al., ACM MM 2021): 3x3, 1x1 and 3x3, 1x1 and scaled Sobel x, Sobel y, Laplace.

    The published depth multiplier of 2 and start of the scales, 1e-3; without its identity, for which channels must agree.
    Biases are one where they only add up. A bias before an edge filter, which sums to 0, would have no effect.
    """

    filters: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.expand = nn.Conv2d(inputs, 2 * outputs, 1, bias=bias)
        self.squeeze = nn.Conv2d(2 * outputs, outputs, 3, bias=False)
        self.edges = nn.Conv2d(inputs, len(EDGES) * outputs, 1, bias=False)
        self.scales = nn.Parameter(1e-3 * torch.randn(len(EDGES), outputs, 1))
        self.register_buffer("filters", torch.tensor(EDGES, dtype=self.scales.dtype), persistent=False)

    def kernel(self) -> Tensor:
        edges = self.scales * self.edges.weight.view(*self.scales.shape[:2], -1)
        weight = self.conv.weight + torch.einsum("eoi,ehw->oihw", edges, self.filters)
        return weight + torch.einsum("omhw,mi->oihw", self.squeeze.weight, self.expand.weight.flatten(1))

    def constant(self) -> Tensor:
        return self.squeeze.weight.sum((2, 3)) @ cast(Tensor, self.expand.bias)


class RepConv(Branched):
    """RepVGG block (Ding et al., CVPR 2021): 3x3, 1x1 with BatchNorm, and where channels agree the input with BatchNorm.

    Unlike there, the 3x3 branch has no BatchNorm, and the others start with a factor of 0: as a mean and deviation of the batch
    would change what the network computes at its start, in training and then in evaluation too.
    """

    needs_bias = True
    norms: Any

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.point = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(1 + (inputs == outputs)))
        for norm in self.norms:
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H, W]``, in training mode with the statistics of this batch."""
        if self.training and x[:, 0].numel() == 1:  # which has no deviation
            return super().forward(x)
        branches = (norm(branch) for norm, branch in zip(self.norms, (self.point(x), x), strict=False))
        return sum(branches, F.conv2d(x, self.conv.weight, self.bias, padding=1))

    def _factors(self) -> list[Tensor]:
        return [norm.weight / (norm.running_var + norm.eps).sqrt() for norm in self.norms]

    def kernel(self) -> Tensor:
        pointwise = self.point.weight.flatten(1)
        branches = zip(self._factors(), (pointwise, torch.eye(*pointwise.shape)), strict=False)
        centre: Any = sum(factor[:, None] * branch for factor, branch in branches)
        return self.conv.weight + F.pad(centre[:, :, None, None], (1, 1, 1, 1))

    def constant(self) -> Tensor:
        return sum(norm.bias - factor * norm.running_mean for norm, factor in zip(self.norms, self._factors(), strict=True))


class Conv3XC(Branched):
    """Convolution of SPAN (Wan et al., CVPRW 2024): 1x1 to twice the channels, 3x3, 1x1 back, beside a 1x1; one for their biases.

    The outer 1x1 start with orthonormal columns and rows, so that the 3x3 between them can make any kernel up to a start.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias, gain=2)
        self.expand = nn.Conv2d(inputs, 2 * inputs, 1, bias=bias)
        self.project = nn.Conv2d(2 * outputs, outputs, 1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        for outer in (self.expand, self.project):
            nn.init.orthogonal_(outer.weight)

    def kernel(self) -> Tensor:
        weight = torch.einsum("op,pqhw,qi->oihw", self.project.weight.flatten(1), self.conv.weight, self.expand.weight.flatten(1))
        return weight + F.pad(self.skip.weight, (1, 1, 1, 1))

    def constant(self) -> Tensor:
        return self.project.weight.flatten(1) @ (self.conv.weight.sum((2, 3)) @ cast(Tensor, self.expand.bias))

    def lifted(self, weight: Tensor) -> Tensor:
        return torch.einsum("op,oihw,qi->pqhw", self.project.weight.flatten(1), weight, self.expand.weight.flatten(1))


KINDS: dict[str, type[Branched]] = {"ecb": ECB, "repconv": RepConv, "conv3xc": Conv3XC}
"""Values of ``train.reparam`` but none."""


def branched(network: Network, kind: str) -> Network:
    """Return a copy that computes the same, in which every dense 3x3 convolution is a module of one of :data:`KINDS`.

    Dense is a ``nn.Conv2d`` of stride 1, padding 1 by zeros, one group and no dilation, for ``repconv`` with a bias, which its
    BatchNorms would give it. Modules with a method ``reparameterize`` have branches of their own, and stay as they are.

    Raises:
        UserError: the network has no such convolution.
    """
    network, new, done = copy.deepcopy(network), KINDS[kind], {}
    kept = {inner for module in network.modules() if hasattr(module, "reparameterize") for inner in module.modules()}
    for parent in [module for module in network.modules() if module not in kept]:
        for name, child in parent._modules.items():  # a shared one stays shared
            if child not in kept and _is_dense(child) and not (child.bias is None and new.needs_bias):
                if child not in done:
                    done[child] = new(child.in_channels, child.out_channels, child.bias is not None).imitate(child)
                parent._modules[name] = done[child]
    if not done:
        raise UserError(
            f"train.reparam: {kind} is for dense 3x3 convolutions of stride 1{' with a bias' * new.needs_bias}, and this "
            f"{network.arch} has none. Set train.reparam to none, or take a network that has some."
        )
    return network


def _is_dense(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return type(module) is nn.Conv2d and [getattr(module, key) for key in keys] == [(3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros"]
