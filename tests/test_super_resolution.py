"""The start near nearest-neighbour upscaling, against upscaling itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.super_resolution import FAINT, started


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("build", [lambda scale: IMDN(scale, 16, 1), lambda scale: DLSR(scale, 16)], ids=["IMDN", "DLSR"])
def test_nearest_copies_the_image_and_keeps_a_tenth_of_the_random_weights(build: Any, scale: int) -> None:
    torch.manual_seed(scale)
    random, x = build(scale), torch.rand(1, 3, 20, 17)
    network, wanted = started(copy.deepcopy(random), "nearest"), F.interpolate(x, scale_factor=scale, mode="nearest")
    copies = scale**2
    for colour in range(3):  # nothing but the copies differs from a tenth of the random weights
        network.tail.weight.data[copies * colour : copies * (colour + 1), colour, 1, 1] -= 1
    assert torch.allclose(network.tail.weight, FAINT * random.tail.weight, atol=1e-7)
    assert torch.equal(network.body.weight, FAINT * random.body.weight) and torch.equal(
        network.head.weight[3:], random.head.weight[3:]
    )

    network = started(copy.deepcopy(random), "nearest")
    with torch.no_grad():
        assert 0 < (network(x) - wanted).abs().mean() < 0.1 < (random(x) - wanted).abs().mean()
        network.tail.weight -= FAINT * random.tail.weight
        network.body.weight.zero_()
        assert torch.allclose(network(x), wanted, atol=1e-6)


def test_a_supernet_starts_so_too_and_random_changes_nothing() -> None:
    space = IMDNSpace(2, 16, 1, ["conv_3x3", "dsconv_3x3"])
    before = copy.deepcopy(space.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in started(space, "random").state_dict().items())
    assert started(space, "nearest").head.weight[:3, :, 1, 1].tolist() == torch.eye(3).tolist()
    with pytest.raises(UserError, match=r"train\.start: nearest is for networks with head, body and tail, and Conv2d has none"):
        started(nn.Conv2d(3, 3, 3), "nearest")
