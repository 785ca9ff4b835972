from __future__ import annotations

import torch
from torch import nn

from sr_nas.contracts import reparameterized


class TwoBranches(nn.Module):
    """``(a + b) x`` as two pointwise convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)

    def reparameterize(self) -> nn.Module:
        merged = nn.Conv2d(self.first.in_channels, self.first.out_channels, 1)
        merged.load_state_dict(
            {name: self.second.state_dict()[name] + tensor for name, tensor in self.first.state_dict().items()}
        )
        return merged


def test_modules_that_can_be_reparameterised_are_replaced_in_a_copy() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(TwoBranches(3), nn.ModuleDict({"inner": TwoBranches(3)})["inner"], nn.ReLU()).eval()
    cheaper = reparameterized(network)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(cheaper(x), network(x))
    assert [type(module) for module in cheaper.children()] == [nn.Conv2d, nn.Conv2d, nn.ReLU]
    assert isinstance(network[0], TwoBranches) and not cheaper[0].training
    assert isinstance(reparameterized(network[0]), nn.Conv2d)
