from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.networks.imdn import IMDN
from sr_nas.optim import adam, cosine, multistep
from sr_nas.training.trainer import Trainer


class Batches:
    """Batch number n is drawn from a generator seeded by n."""

    def __init__(self) -> None:
        self.position = 0

    def next(self) -> tuple[torch.Tensor, ...]:
        self.position += 1
        low = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(self.position))
        return low, low.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def trainer(total: int = 8, lr: float = 1e-3, ema_decay: float = 0.9, clip: float | None = None) -> Trainer:
    torch.manual_seed(0)
    network = IMDN(2, nf=16, num_blocks=1, genotype="conv_3x3,conv_3x3_bn,dsconv_3x3,conv_3x3")
    optimizer = adam(network.parameters(), lr=lr)
    schedule = multistep(optimizer, total, milestones=[3, 6], gamma=0.1)
    return Trainer(network, F.l1_loss, Batches(), optimizer, schedule, total, ema_decay, clip)


def test_the_moving_average_by_its_formula() -> None:
    train = trainer()
    train.network.train()
    average = copy.deepcopy(dict(train.network.named_parameters()))
    for step in range(4):
        train.step()
        for name, value in train.network.named_parameters():
            average[name] = value.detach().clone() if step == 0 else 0.9 * average[name] + 0.1 * value.detach()
    for name, value in train.averaged.named_parameters():
        torch.testing.assert_close(value, average[name])
    for kept, latest in zip(train.averaged.buffers(), train.network.buffers(), strict=True):
        assert torch.equal(kept, latest)


def test_without_an_average_the_weights_themselves_are_kept() -> None:
    train = trainer(ema_decay=0)
    train.step()
    assert train.averaged is train.network


def test_the_state_is_read_with_weights_only_and_goes_on_to_the_bit() -> None:
    straight, first, second = trainer(), trainer(), trainer()
    straight.run(lambda _: None)
    first.run(lambda _: None, lambda: first.iteration == 4)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.run(lambda _: None)
    for one, other in ((straight.network, second.network), (straight.averaged, second.averaged)):
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_learning_rates() -> None:
    train, rates = trainer(), []
    train.run(lambda _: rates.append(train.learning_rate))
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5])
    optimizer = adam([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine(optimizer, 10, eta_min=1.0)
    for iteration in range(1, 11):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1.5 + 0.5 * math.cos(math.pi * iteration / 10))


def test_gradient_clipping() -> None:
    train = trainer(clip=1e-3)
    train.step()
    norm = torch.stack([p.grad.norm() for p in train.network.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_diverging_loss_is_reported() -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at iteration \d+\. Lower train\.optim_g\.lr"):
        trainer(lr=1e30).run(lambda _: None)
