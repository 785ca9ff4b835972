"""A prepared network equals the network it was made of, and is made again when that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from sr_nas.contracts import SRNetwork
from sr_nas.data.layouts import resolve_set
from sr_nas.data.sources import folder
from sr_nas.export.model import load_model
from sr_nas.inference import packed
from sr_nas.inference import prepared as module
from sr_nas.inference.images import upscaler
from sr_nas.inference.packed import Packed
from sr_nas.inference.prepared import prepared, quickest
from sr_nas.inference.tiles import upscale
from sr_nas.metrics import evaluate_set
from sr_nas.networks.dlsr import DLSR, DLSR_CANDIDATES
from sr_nas.networks.imdn import IMDN, IMDN_CANDIDATES
from tests.export.networks import tiny_dlsr, tiny_imdn, with_statistics

pytestmark = pytest.mark.skipif(not packed.is_available(), reason="this PyTorch comes without oneDNN")
SIZES = ((1, 3, 19, 33), (2, 3, 8, 21), (1, 3, 1, 1))


def noise(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(3))


def assert_equal(network: nn.Module, quick: nn.Module) -> None:
    assert isinstance(quick, fx.GraphModule)
    with torch.inference_mode():
        for size in SIZES:
            x = noise(*size)
            torch.testing.assert_close(quick(x).contiguous(), network(x), rtol=0, atol=1e-5)


def imdn(candidate: str) -> IMDN:
    torch.manual_seed(0)
    return with_statistics(IMDN(2, nf=16, num_blocks=2, genotype=[candidate] * 4)).eval()  # type: ignore[return-value]


def dlsr(candidate: str, nf: int = 16) -> DLSR:
    torch.manual_seed(0)
    network = DLSR(2, nf=nf, num_cells=3, genotype=[candidate] * 3).eval()
    # The first weights are so small that attention hardly matters.
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    return network


@pytest.mark.parametrize("candidate", IMDN_CANDIDATES.names())
def test_every_imdn_candidate_is_the_same(candidate: str) -> None:
    network = imdn(candidate)
    assert_equal(network, prepared(network))


@pytest.mark.parametrize("candidate", DLSR_CANDIDATES.names())
def test_every_dlsr_candidate_is_the_same(candidate: str) -> None:
    network = dlsr(candidate)
    assert_equal(network, prepared(network))


def kinds(network: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in network.modules():
        found[type(one).__name__] = found.get(type(one).__name__, 0) + 1
    return found


def test_what_can_be_one_call_is_one() -> None:
    found = kinds(prepared(tiny_imdn()))
    # Head, six of the block, fusion, body, tail; attention with its convolution. No BatchNorm.
    assert found["Packed"] == 10 and found["PackedContrastAttention"] == 1
    assert "BatchNorm2d" not in found and "PackedJoin" not in found
    graph = prepared(tiny_imdn()).graph  # type: ignore[union-attr]
    names = [getattr(node.target, "__name__", node.target) for node in graph.nodes if node.op == "call_function"]
    assert "leaky_relu" not in names and "add" not in names
    found = kinds(prepared(dlsr("sep_conv_3x3", nf=32)))
    assert found["PackedSpatialAttention"] == 3
    # Three cells' outputs and two cells' outputs are wide enough to be convolved apart; a cell's halves are not.
    assert found["PackedJoin"] == 2


class Borders(SRNetwork):
    """What must not be taken into a convolution: outputs with another use, sums that broadcast, padding that reflects."""

    arch, scale = "Borders", 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 40, 3, padding=1)
        self.reflected = nn.Conv2d(40, 40, 3, padding=1, padding_mode="reflect")
        self.column = nn.Conv2d(40, 1, 1)
        self.both = nn.Conv2d(80, 40, 1)
        self.last = nn.Conv2d(40, 3, 1)

    def settings(self) -> dict[str, Any]:
        return {}

    def forward(self, x: Tensor) -> Tensor:
        wide = self.first(x)
        used_twice = torch.relu(wide) + wide
        broadcast = self.column(used_twice) + self.reflected(used_twice)
        doubled = self.both(torch.cat((broadcast, used_twice), dim=1))
        shown: Tensor = self.last(doubled + doubled) + x
        return shown


def test_what_cannot_be_one_call_stays() -> None:
    network = Borders().eval()
    quick = prepared(network)
    assert isinstance(quick, fx.GraphModule) and kinds(quick)["Conv2d"] == 1 and kinds(quick)["PackedJoin"] == 1
    with torch.inference_mode():
        for size in ((1, 3, 9, 12), (2, 3, 5, 40)):
            torch.testing.assert_close(quick(noise(*size)).contiguous(), network(noise(*size)), rtol=0, atol=1e-5)


class Branches(Borders):
    """A network that asks for the size."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[2] > 5 else x


class Wrong(Borders):
    """A network whose graph is not its function: what it does depends on more than its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 if isinstance(x, fx.Proxy) else 2)


def test_what_cannot_be_prepared_is_returned() -> None:
    for network in (Branches(), Borders().double(), nn.Conv2d(3, 3, 1)):
        assert prepared(network) is network
    wrong = Wrong()
    with pytest.warns(UserWarning, match="Wrong runs as it is"):
        assert prepared(wrong) is wrong
    hooked = Borders()
    hooked.first.register_forward_hook(lambda *_: None)
    assert prepared(hooked) is hooked


def test_the_network_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 0)
    network = tiny_imdn().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    names = [name for name, _ in network.named_modules()]
    upscale(network, noise(1, 3, 12, 14), device="cpu")
    assert all(one.training for one in network.modules()) and names == [name for name, _ in network.named_modules()]
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_is_prepared_once_it_pays_and_again_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_dlsr()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    monkeypatch.setattr(module, "WORTH", 300 * parameters)
    assert quickest(network, 299) is network
    first = quickest(network, 1)
    assert isinstance(first, fx.GraphModule) and quickest(network, 1) is first
    network.tail.weight.data.mul_(2)  # Unseen by autograd's counters.
    assert quickest(network, 299) is network
    second = quickest(network, 1)
    assert second is not first
    assert_equal(network, second)
    network.head.register_forward_hook(lambda *_: None)
    assert quickest(network, 10**9) is network


def test_upscaling_runs_the_prepared_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 0)
    calls: list[int] = []
    forward = Packed.forward
    monkeypatch.setattr(Packed, "forward", lambda self, *words, **named: calls.append(1) or forward(self, *words, **named))
    network, lr = tiny_imdn(), noise(1, 3, 40, 37)
    with torch.inference_mode():
        expected = network(lr)
    torch.testing.assert_close(upscale(network, lr, device="cpu"), expected, rtol=0, atol=1e-5)
    assert calls
    calls.clear()
    upscale(network, lr, device="cpu", precision="bf16")
    assert not calls, "other precisions are autocast's"


@pytest.mark.parametrize(
    ("weights", "arch", "genotype", "scale", "expected"),
    [
        ("IMDN_x4.pth", "imdn", None, 4, 32.210),
        (
            "DLSR_para_loss_x2.pt",
            "dlsr",
            "sep_conv_3x3,sep_conv_5x5,sep_conv_5x5,cell2+cell1,cell3+cell2,cell4+cell3,cell1+cell3",
            2,
            38.041,
        ),
    ],
)
def test_released_weights_keep_their_scores(
    shared: Path, weights: str, arch: str, genotype: str | None, scale: int, expected: float
) -> None:
    network = load_model(shared / "weights" / weights, arch, genotype)
    assert prepared(network) is not network
    _, high, low = resolve_set(shared / "data" / "Set5", scale, None)
    pairs = folder([str(high)], None if low is None else [str(low)], scale=scale)
    assert evaluate_set(upscaler(network, device="cpu"), pairs, scale)["psnr"] == pytest.approx(expected, abs=0.001)
