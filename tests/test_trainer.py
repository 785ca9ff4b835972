"""The training loop against formulas, divergence by numbers, and a compiled network."""

from __future__ import annotations

import copy
import io
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.networks.imdn import IMDN
from sr_nas.ops.reparam import branched
from sr_nas.optim import WarmUp, adam, multistep, sgd
from sr_nas.trainer import Distillation, Diverged, DivergenceWatch, Trainer, check_compiler


class Batches:
    """Patch number n is drawn from a generator seeded by n."""

    def __init__(self, size: int = 2, dtype: torch.dtype = torch.float32) -> None:
        self.size, self.dtype, self.position = size, dtype, 0

    def next(self) -> tuple[torch.Tensor, ...]:
        seeds = range(self.position, self.position + self.size)
        self.position += self.size
        low = torch.stack(
            [torch.rand(3, 6, 6, dtype=self.dtype, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        return low, low.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def imdn(genotype: str = "conv_3x3,conv_3x3_bn,dsconv_3x3,conv_3x3", seed: int = 0) -> IMDN:
    torch.manual_seed(seed)
    return IMDN(2, nf=16, num_blocks=1, genotype=genotype)


def trainer(total: int = 8, lr: float = 1e-3, warmup: int = 0, network: IMDN | None = None, **options: Any) -> Trainer:
    network = imdn() if network is None else network
    optimizer = adam(network.parameters(), lr=lr)
    schedule = WarmUp(multistep(optimizer, total, milestones=[3, 6], gamma=0.1), warmup)
    return Trainer(network, F.l1_loss, Batches(), optimizer, schedule, total, **{"ema_decay": 0.9, **options})


def run(train: Trainer, until: int | None = None) -> None:
    """Train until an iteration, or to the end."""
    for _ in train.steps():
        if train.iteration == until:
            return


def exact(batch_size: int, **options: Any) -> Trainer:
    """In float64, without BatchNorm, whose statistics are a batch's, and by a step in proportion to the gradient."""
    network = imdn("conv_3x3,conv_3x3,dsconv_3x3,conv_3x3").double()
    optimizer = sgd(network.parameters(), lr=0.1)
    schedule = WarmUp(multistep(optimizer, 9, milestones=[9]), 0)
    return Trainer(network, F.l1_loss, Batches(batch_size, torch.float64), optimizer, schedule, 9, ema_decay=0, **options)


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_the_moving_average_by_its_formula() -> None:
    train = trainer()
    average = copy.deepcopy(dict(train.network.named_parameters()))
    for step in range(4):
        train.step()
        assert train.start_share == pytest.approx(0.9**step)
        for name, value in train.network.named_parameters():
            average[name] = value.detach().clone() if step == 0 else 0.9 * average[name] + 0.1 * value.detach()
    for name, value in train.averaged.named_parameters():
        torch.testing.assert_close(value, average[name])
    for kept, latest in zip(train.averaged.buffers(), train.network.buffers(), strict=True):
        assert torch.equal(kept, latest)


def test_images_are_channels_last_and_what_is_saved_is_not() -> None:
    train = trainer()
    layouts = []
    train.network.head.register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    train.step()
    assert layouts == [True]
    state = train.state_dict()
    moments = [moment for moments in state["optimizer"]["state"].values() for moment in moments.values()]
    assert all(tensor.is_contiguous() for tensor in [*state["network"].values(), *state["ema"].values(), *moments])


def test_without_an_average_the_weights_themselves_are_kept() -> None:
    train = trainer(ema_decay=0)
    train.step()
    assert train.averaged is train.network and train.start_share == 0


def test_the_state_is_read_with_weights_only_and_goes_on_to_the_bit() -> None:
    straight, first, second = (trainer(warmup=6, accumulate=2, watch=DivergenceWatch(10.0, window=3)) for _ in range(3))
    run(straight)
    run(first, 4)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(second)
    assert_same(straight.network, second.network)
    assert_same(straight.averaged, second.averaged)
    for name in ("stream", "scheduler", "watch"):
        assert second.state_dict()[name] == straight.state_dict()[name]
    assert straight.stream.state_dict() == {"position": 8 * 2 * 2}


def test_learning_rates() -> None:
    train = trainer()
    rates = [train.learning_rate for _ in train.steps()]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5])


def gradient_norm(train: Trainer) -> float:
    return torch.stack([p.grad.norm() for p in train.network.parameters() if p.grad is not None]).norm().item()


def test_gradient_clipping() -> None:
    train = trainer(grad_clip_norm=1e-3)
    train.step()
    assert gradient_norm(train) == pytest.approx(1e-3, rel=1e-3)


def test_accumulated_batches_are_one_of_their_joint_size() -> None:
    parts, whole = exact(2, accumulate=3, grad_clip_norm=0.5), exact(6, grad_clip_norm=0.5)
    for _ in range(3):
        one, other = parts.step(), whole.step()
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-12)
        for a, b in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_fp16_scales_the_loss_and_clips_the_gradient_itself() -> None:
    train = trainer(precision="fp16", grad_clip_norm=1e-3)
    reference = trainer()
    train.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    train.step()
    reference.step()
    assert gradient_norm(train) == pytest.approx(1e-3, rel=1e-3)
    kept, other = (
        torch.cat([p.grad.flatten() for p in t.network.parameters() if p.grad is not None]) for t in (train, reference)
    )
    assert F.cosine_similarity(kept, other, dim=0) > 0.99
    train.step()
    assert train.state_dict()["scaler"]["scale"] == 2.0**11
    resumed = trainer(precision="fp16")
    resumed.load_state_dict(train.state_dict())
    assert resumed.scaler.get_scale() == 2.0**11
    reference.load_state_dict(train.state_dict())
    assert reference.state_dict()["scaler"] == {}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_gradient_beyond_fp16_moves_no_weights_and_lowers_the_scale() -> None:
    train = trainer(precision="fp16")
    train.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    before = copy.deepcopy(dict(train.network.named_parameters()))
    train.step()
    assert all(torch.equal(before[name], value) for name, value in train.network.named_parameters())
    assert train.scaler.get_scale() == 2.0**125


def test_distillation_by_its_formula() -> None:
    teacher = imdn("conv_3x3,conv_3x3,conv_3x3,conv_3x3_bn", seed=1).double().train()
    train = exact(2, distillation=Distillation(teacher, lambda output, target: 0.5 * F.mse_loss(output, target)))
    low, high = Batches(2, torch.float64).next()
    student = copy.deepcopy(train.network)
    statistics = copy.deepcopy(dict(teacher.named_buffers()))
    losses = train.step()
    output, target = student(low), teacher(low).detach()
    task, distill = (output - high).abs().mean(), 0.5 * ((output - target) ** 2).mean()
    assert losses == pytest.approx({"loss": task.item(), "distill": distill.item()}, rel=1e-12)
    (task + distill).backward()
    for moved, start in zip(train.network.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(moved, start - 0.1 * start.grad, rtol=0, atol=1e-12)
    assert not teacher.training
    assert all(torch.equal(statistics[name], buffer) for name, buffer in teacher.named_buffers())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_loss_that_is_not_finite_is_reported() -> None:
    with pytest.raises(
        Diverged, match=r"diverged at iteration \d+: the loss is (nan|inf)\. Lower train\.optim_g\.lr, set train\.grad_clip"
    ):
        run(trainer(lr=1e30))


def test_a_loss_far_above_what_it_was_is_reported() -> None:
    train = trainer(total=40, lr=1e-3, watch=DivergenceWatch(5.0, window=4))
    train.scheduler = WarmUp(multistep(train.optimizer, 40, milestones=[20], gamma=1e4), 0)
    with pytest.raises(Diverged, match=r"diverged at iteration 2\d: the mean loss of the last 4 iterations is .*\. Lower"):
        run(train)
    assert train.watch.suspicious


def test_fp16_is_among_what_to_change() -> None:
    assert "train.precision to bf16 or fp32" in str(trainer(precision="fp16").diverged("x"))
    assert "precision" not in str(trainer().diverged("x"))


def test_what_is_called_before_a_step_is_told_how_many_are_done() -> None:
    iterations: list[int] = []
    run(trainer(total=3, before_step=iterations.append, accumulate=2))
    assert iterations == [0, 1, 2]


def watched(losses: list[float], factor: float | None = 10.0, window: int = 20) -> DivergenceWatch:
    watch = DivergenceWatch(factor, window)
    for loss in losses:
        watch.note(loss)
    return watch


def test_the_mean_of_the_window_is_compared_with_the_lowest_such_mean() -> None:
    fallen = [1.0] * 20 + [0.1] * 20
    assert watched(fallen).lowest == pytest.approx(0.1)
    # k losses of 2 among 20, the others 0.1: the mean is 0.1 + 1.9 k / 20, above 1 from k = 10 on.
    assert not watched(fallen + [2.0] * 9).diverged
    assert watched(fallen + [2.0] * 10).diverged
    assert "is 1.05, and was 0.1 at its lowest" in watched(fallen + [2.0] * 10).describe()


def test_one_hard_batch_is_no_divergence_but_nothing_is_saved_upon_it() -> None:
    watch = watched([0.1] * 20 + [15.0])
    assert not watch.diverged
    assert watch.suspicious
    for _ in range(DivergenceWatch.RECENT):
        watch.note(0.1)
    assert not watch.suspicious


def test_nothing_is_judged_before_the_first_window_is_full_or_without_a_factor() -> None:
    assert not watched([0.1] * 18 + [1e9]).diverged
    assert not watched([0.1] * 20 + [1e9] * 20, factor=None).diverged
    assert not watched([0.0] * 20 + [1e-9] * 20).diverged


def test_a_resumed_watch_judges_as_the_old_one() -> None:
    old, new = watched([0.1] * 20 + [2.0] * 9), DivergenceWatch(10.0, 20)
    new.load_state_dict(old.state_dict())
    for watch in (old, new):
        watch.note(2.0)
    assert old.diverged and new.diverged
    assert old.state_dict() == new.state_dict()


@pytest.mark.long
@pytest.mark.parametrize("network", [imdn(), branched(imdn(), "ecb")])
def test_a_compiled_step_is_the_plain_one_and_names_stay(network: IMDN, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is captured as always, and run as it is instead of being made into machine code, which takes seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    check_compiler(torch.device("cpu"))
    plain, fast = trainer(network=copy.deepcopy(network)), trainer(network=copy.deepcopy(network), compiled=True)
    assert fast.forward is not fast.network
    for train in (plain, fast):
        train.step()
    assert_same(plain.network, fast.network)
    assert list(fast.state_dict()["network"]) == list(plain.state_dict()["network"])


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(UserError, match=r"train\.compile: .*No working C\+\+ compiler found.* set train\.compile to false"):
        check_compiler(torch.device("cpu"))
