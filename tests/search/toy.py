"""A search space small enough for float64 oracles: y = BN(sum_i w_i conv_i(x)), then a second mixed layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_nas.contracts import CostSite, Weights, keep_strongest
from sr_nas.genotype import Choice, Genotype


class ToySpace(nn.Module):
    arch = "Toy"

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        names = ("small", "middle", "large")
        self.table = {"one": Choice(names), "two": Choice(names[:2])}
        self.ops = nn.ModuleDict(
            {
                label: nn.ModuleList(nn.Conv2d(2, 2, 2 * size + 1, padding=size) for size in range(len(choice.candidates)))
                for label, choice in self.table.items()
            }
        )
        self.norm = nn.BatchNorm2d(2) if norm else nn.Identity()

    def choices(self) -> dict[str, Choice]:
        return self.table

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        return self.mix("two", torch.tanh(self.norm(self.mix("one", x, weights))), weights)

    def mix(self, label: str, x: Tensor, weights: Weights) -> Tensor:
        """Of a mask, what is not chosen is not run."""
        pairs = zip(weights[label], self.ops[label], strict=True)  # type: ignore[arg-type]
        return sum(weight * op(x) for weight, op in pairs if weight.dtype != torch.bool or weight)  # type: ignore[return-value]

    def decode(self, weights: Weights) -> Genotype:
        return keep_strongest(self.arch, self.table, weights)

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        return {
            label: (CostSite(lambda name: nn.Conv2d(2, 2, 2 * ("small", "middle", "large").index(name) + 1), 2),)
            for label in self.table
        }


class ToyStream:
    """Batches that depend on their number alone; of each a slice, where several processes share them."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64, size: int = 2, places: slice = slice(None)) -> None:
        self.seed, self.dtype, self.size, self.places, self.position = seed, dtype, size, places, 0

    def next(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + self.position)
        self.position += 1
        x = torch.rand(self.size, 2, 5, 5, generator=generator, dtype=self.dtype)[self.places]
        return x, 0.5 * x.roll(1, -1) + 0.25 * x

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]
