"""The fused mixed operation against the plain one, which is the formula."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sr_nas.networks.dlsr import DLSR_CANDIDATES
from sr_nas.networks.imdn import IMDN_CANDIDATES
from sr_nas.ops import fused as fused_module
from sr_nas.ops.depthwise import depthwise
from sr_nas.ops.fused import FusedMixedOp
from sr_nas.ops.mixed import MixedOp
from sr_nas.ops.plan import plan_of, recognise

BUILDERS = {
    registry.kind: {name: registry.get(name) for name in registry.names()} for registry in (IMDN_CANDIDATES, DLSR_CANDIDATES)
}
IMDN, DLSR = BUILDERS


def pair(builders: Mapping[str, Any], channels: tuple[int, int], share: int, dtype: torch.dtype) -> tuple[MixedOp, FusedMixedOp]:
    """A plain and a fused operation of the same weights and statistics, none of them at its start value."""
    plain, fused = (kind(builders, *channels, share).to(dtype) for kind in (MixedOp, FusedMixedOp))
    with torch.no_grad():
        for tensor in itertools.chain(plain.parameters(), (buffer for buffer in plain.buffers() if buffer.is_floating_point())):
            tensor.add_(torch.rand_like(tensor), alpha=0.3)
    fused.load_state_dict(plain.state_dict())
    return plain, fused


def passed(op: MixedOp, channels: int, second: bool = False, size: tuple[int, int] = (7, 9)) -> dict[str, Tensor]:
    """Everything that a forward and a backward pass gives, and with ``second`` a gradient of the gradients."""
    source = torch.Generator().manual_seed(1)
    dtype = next(op.parameters()).dtype
    x = torch.rand(2, channels, *size, generator=source, dtype=dtype).requires_grad_()
    weights = torch.rand(len(op.candidates), generator=source, dtype=dtype).requires_grad_()
    y = op(x, weights)
    direction = torch.rand(y.shape, generator=source, dtype=dtype)
    inputs = {"x": x, "weights": weights, **dict(op.named_parameters())}
    gradients = torch.autograd.grad((y * direction).sum(), list(inputs.values()), create_graph=second)
    found = {"y": y} | {f"grad {name}": gradient for name, gradient in zip(inputs, gradients, strict=True)}
    if second:
        # Of alpha's gradient, as an exact second-order search takes it, and of the weights' in alpha.
        length = sum(gradient.square().sum() for gradient in gradients if gradient.requires_grad)
        again = torch.autograd.grad(length, list(inputs.values()), allow_unused=True)
        found |= {f"second {name}": gradient for name, gradient in zip(inputs, again, strict=True) if gradient is not None}
    return found | {name: buffer.clone() for name, buffer in op.named_buffers()}


def assert_equal(plain: dict[str, Tensor], fused: dict[str, Tensor], tolerance: float) -> None:
    assert plain.keys() == fused.keys()
    for name, expected in plain.items():
        scale = 1.0 + expected.abs().max().item()
        torch.testing.assert_close(
            fused[name], expected, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(params=["processor", "accelerator"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kind of the device for which candidates are assigned to convolutions; it runs on the processor all the same."""
    name: str = request.param
    monkeypatch.setattr(fused_module, "few_calls", lambda _: name == "accelerator")
    return name


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("share", [1, 4])
@pytest.mark.parametrize("channels", [(16, 16), (24, 32), (96, 64)])
@pytest.mark.parametrize("space", [IMDN, DLSR])
def test_it_equals_the_plain_operation(space: str, channels: tuple[int, int], share: int, training: bool) -> None:
    torch.manual_seed(0)
    plain, fused = pair(BUILDERS[space], channels, share, torch.float64)
    results = [passed(op.train(training), channels[0]) for op in (plain, fused)]
    assert_equal(*results, tolerance=1e-10)


@pytest.mark.parametrize("space", [IMDN, DLSR])
def test_float32_to_its_rounding(space: str) -> None:
    torch.manual_seed(0)
    plain, fused = (passed(op, 32) for op in pair(BUILDERS[space], (32, 32), 1, torch.float32))
    # A BatchNorm cancels the bias of the convolution in front of it: its gradient is rounding alone.
    cancelled = [name for name in plain if name.startswith("grad") and "_bn." in name and name.endswith((".0.bias", ".1.bias"))]
    largest = max(value.abs().max() for name, value in plain.items() if name.startswith("grad"))
    for found in (plain, fused):
        for name in cancelled:
            norm = name.endswith(".1.bias") and "ds" not in name
            assert norm or found.pop(name).abs().max() < 1e-5 * largest, name
    assert_equal(plain, fused, tolerance=1e-5)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("seed", range(12))
def test_any_candidates_and_the_gradient_of_gradients(seed: int) -> None:
    torch.manual_seed(seed)
    chosen = random.Random(seed)
    builders = BUILDERS[chosen.choice((IMDN, DLSR))] if seed % 3 else BUILDERS[IMDN] | BUILDERS[DLSR]
    names = chosen.sample(list(builders), chosen.randint(2, len(builders)))
    share, channels = chosen.choice((1, 2)), chosen.choice(((8, 8), (24, 8), (8, 24)))
    plain, fused = pair({name: builders[name] for name in names}, channels, share, torch.float64)
    training = chosen.random() < 0.7
    results = [passed(op.train(training), channels[0], second=True, size=(4, 5)) for op in (plain, fused)]
    assert_equal(*results, tolerance=1e-8 if training else 1e-10)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("space", [IMDN, DLSR])
def test_operations_bound_together_equal_each_by_itself(space: str, training: bool) -> None:
    """Two that are alike, one of other channels, and one whose candidates are in another mode; two share their weights."""
    torch.manual_seed(0)
    pairs = [pair(BUILDERS[space], channels, 2, torch.float64) for channels in ((8, 8), (8, 8), (12, 8), (8, 8))]
    alpha = torch.rand(2, len(BUILDERS[space]), dtype=torch.float64, requires_grad=True)
    x = [torch.rand(2, op.sampled * 2, 6, 7, dtype=torch.float64, requires_grad=True) for op, _ in pairs]
    found = []
    for kind, ops in zip((MixedOp, FusedMixedOp), zip(*pairs, strict=True), strict=True):
        for op in ops:
            op.train(training)
        ops[3].candidates.train(not training)
        bound = kind.bind(ops, [alpha[0], alpha[1], alpha[1], alpha[0]])
        outputs = [function(own) for function, own in zip(bound, x, strict=True)]
        inputs = {"alpha": alpha} | {f"x{index}": own for index, own in enumerate(x)}
        inputs |= {f"{index}.{name}": value for index, op in enumerate(ops) for name, value in op.named_parameters()}
        grads = torch.autograd.grad(sum(output.square().sum() for output in outputs), list(inputs.values()))
        found.append(
            {f"y{index}": output for index, output in enumerate(outputs)}
            | dict(zip(inputs, grads, strict=True))
            | {f"{index}.{name}": buffer.clone() for index, op in enumerate(ops) for name, buffer in op.named_buffers()}
        )
    assert_equal(*found, tolerance=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_biases_of_separable_candidates_alone(training: bool) -> None:
    """Without a dense candidate or a BatchNorm, at 64 channels, every candidate is in the join, and so are its biases."""
    torch.manual_seed(0)
    builders = {name: BUILDERS[IMDN][name] for name in ("dsconv_3x3", "dsconv_5x5", "dil_dsconv_3x3")}
    plain, fused = pair(builders, (64, 64), 1, torch.float64)
    plan = plan_of(fused.signatures, few_calls=False)
    assert plan.banks and not plan.frames and not plan.others
    results = [passed(op.train(training), 64, second=training, size=(5, 6)) for op in (plain, fused)]
    assert_equal(*results, tolerance=1e-8)


def test_a_sum_of_separable_candidates_keeps_its_input_alone() -> None:
    """Beside kernels: plain keeps every tensor between two convolutions."""
    kept = []
    for op in pair(BUILDERS[DLSR], (24, 24), 1, torch.float32):
        storages: dict[int, int] = {}
        alive = []

        def pack(tensor: Tensor, storages: dict[int, int] = storages, alive: list[Tensor] = alive) -> Tensor:
            if tensor.ndim == 4 and tensor.shape[2:] == (20, 21):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            op(torch.rand(2, 24, 20, 21, requires_grad=True), torch.rand(9, requires_grad=True)).sum()
        kept.append(sum(storages.values()) // (4 * 2 * 24 * 20 * 21))
    assert kept[1] == 1 and kept[0] > 20


class Swish(nn.Module):
    """A candidate that no recogniser knows."""

    def __init__(self, read: int, written: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(read, written, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.inner(x))


class Doubled(nn.Conv2d):
    """A subclass computes what it likes."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


UNKNOWN = {
    "function": Swish,
    "subclass": lambda read, written: Doubled(read, written, 3, padding=1),
    "activation behind": lambda read, written: nn.Sequential(nn.Conv2d(read, written, 1), nn.ReLU()),
    "even kernel": lambda read, written: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(read, written, 2)),
    "reflected border": lambda read, written: nn.Conv2d(read, written, 3, padding=1, padding_mode="reflect"),
    "groups": lambda read, written: nn.Conv2d(read, written, 3, padding=1, groups=2),
    "no statistics": lambda read, written: nn.Sequential(
        nn.Conv2d(read, written, 1), nn.BatchNorm2d(written, track_running_stats=False)
    ),
}


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_candidates_of_unknown_form_run_by_themselves(name: str) -> None:
    torch.manual_seed(0)
    assert recognise(UNKNOWN[name](8, 8)) is None
    for share, others in ((1, ()), (1, ("conv_3x3", "dsconv_3x3_bn")), (2, ("dsconv_3x3",))):
        builders = {"unknown": UNKNOWN[name], **{other: BUILDERS[IMDN][other] for other in others}}
        plain, fused = pair(builders, (8, 8), share, torch.float64)
        assert_equal(passed(plain, 8, second=True), passed(fused, 8, second=True), tolerance=1e-9)


def dense(kernel: int, dilation: int = 1, bias: bool = True, norm: bool = False, relu: bool = False) -> Any:
    """Builder of a candidate of one dense convolution."""

    def build(read: int, written: int) -> nn.Module:
        convolution = nn.Conv2d(read, written, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=bias)
        return nn.Sequential(*[nn.ReLU()] * relu, convolution, *[nn.BatchNorm2d(written)] * norm)

    return build


def chain(*kernels: int, dilation: int = 1, width: int = 0, biases: str = "dp", norm: bool = False, relu: bool = False) -> Any:
    """Builder of a chain of separable convolutions, ``width`` channels between them; ``biases`` of depthwise, pointwise ones."""

    def build(read: int, written: int) -> nn.Module:
        layers: list[nn.Module] = []
        widths = [read, *[width or read] * (len(kernels) - 1), written]
        for kernel, before, after in zip(kernels, widths, widths[1:], strict=False):
            settings = {"padding": dilation * (kernel // 2), "dilation": dilation, "groups": before, "bias": "d" in biases}
            layers += [*[nn.ReLU()] * relu, nn.Conv2d(before, before, kernel, **settings)]
            layers += [nn.Conv2d(before, after, 1, bias="p" in biases)]
        return nn.Sequential(*layers, *[nn.BatchNorm2d(written)] * norm)

    return build


MADE_UP = {
    "norms alone": [dense(3, norm=True), chain(5, norm=True), chain(3, 3, norm=True)],
    "some biases": [dense(3), dense(5, bias=False), chain(3), chain(5, biases="d"), chain(3, biases="p"), chain(3, biases="")],
    "some biases before a norm": [dense(3, bias=False, norm=True), *(chain(3, biases=own, norm=True) for own in ("dp", "d", ""))],
    "dilated points": [dense(1, 2), dense(3, 2), dense(3), chain(1, dilation=2), chain(1, dilation=2, norm=True)],
    "relu or none": [
        *(kind(3, relu=relu, norm=norm) for kind in (dense, chain) for relu in (False, True) for norm in (False, True))
    ],
    "three stages": [chain(3, 5, 3), chain(5, 3, 7, relu=True), chain(3, 3, 3, norm=True), chain(3, 3, 3, dilation=2)],
    "other widths": [chain(3, 5, width=5), chain(3, 3, width=7), chain(5, 3, width=7, norm=True), chain(3, 3, width=1), chain(3)],
    "biases of stages": [chain(3, 5, biases="d"), chain(5, 5, biases="p"), chain(3, 3, biases="p", norm=True), chain(3, 3)],
}


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("channels", [(1, 1), (4, 6), (24, 20)])
@pytest.mark.parametrize("name", list(MADE_UP))
def test_candidates_of_other_spaces(name: str, channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    builders = {str(number): build for number, build in enumerate(MADE_UP[name])}
    plain, fused = pair(builders, channels, 1, torch.float64)
    assert_equal(*(passed(op, channels[0], second=True, size=(4, 5)) for op in (plain, fused)), tolerance=1e-8)


def test_on_a_processor_no_kernel_of_a_sum_is_padded_to_one_of_a_norm() -> None:
    signatures = FusedMixedOp({"sum": dense(3), "norm": dense(5, norm=True)}, 32, 32).signatures
    assert [frame.kernel for frame in plan_of(signatures, few_calls=False).frames] == [3, 5]
    assert [frame.kernel for frame in plan_of(signatures, few_calls=True).frames] == [5]


def test_training_after_inference() -> None:
    """What all operations of a plan share is made by the first pass, perhaps one without gradients."""
    plan_of.cache_clear()
    plain, fused = pair(BUILDERS[IMDN], (8, 8), 1, torch.float64)
    with torch.inference_mode():
        results = [op.eval()(torch.ones(1, 8, 5, 5).double(), torch.ones(12).double()) for op in (plain, fused)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    assert_equal(passed(plain.train(), 8), passed(fused.train(), 8), tolerance=1e-10)


def test_weights_in_another_precision_and_an_empty_batch() -> None:
    plain, fused = pair(BUILDERS[DLSR], (24, 24), 1, torch.float64)
    weights = torch.rand(9)
    for images in (2, 0):
        x = torch.rand(images, 24, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(fused(x, weights), plain(x, weights), rtol=0, atol=1e-10)


def test_chains_and_norms_of_other_settings() -> None:
    torch.manual_seed(0)
    builders = {
        "two convolutions": lambda read, written: nn.Sequential(nn.Conv2d(read, 6, 1), nn.Conv2d(6, written, 3, padding=1)),
        "relu": lambda read, written: nn.Sequential(nn.ReLU(), nn.Conv2d(read, written, 5, padding=2, bias=False)),
        "chain": lambda read, written: nn.Sequential(
            nn.Conv2d(read, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, written, 3, padding=1), nn.BatchNorm2d(written)
        ),
        "eps": lambda read, written: nn.Sequential(nn.Conv2d(read, written, 1), nn.BatchNorm2d(written, eps=0.1)),
        "momentum": lambda read, written: nn.Sequential(nn.Conv2d(read, written, 1), nn.BatchNorm2d(written, momentum=0.7)),
    }
    plain, fused = pair(builders, (8, 6), 1, torch.float64)
    assert_equal(passed(plain, 8, second=True), passed(fused, 8, second=True), tolerance=1e-9)


def test_norms_of_another_mode_than_the_operation() -> None:
    torch.manual_seed(0)
    plain, fused = pair(BUILDERS[IMDN], (8, 8), 1, torch.float64)
    for op in (plain, fused):
        op.candidates["conv_3x3_bn"].eval()
    assert_equal(passed(plain, 8), passed(fused, 8), tolerance=1e-10)


def test_parameters_and_buffers_are_read_at_the_time_of_the_call() -> None:
    """A search judges alpha on other weights and on copies of the statistics."""
    torch.manual_seed(0)
    plain, fused = pair(BUILDERS[IMDN], (8, 8), 1, torch.float64)
    before = copy.deepcopy(fused.state_dict())
    x, weights = torch.rand(2, 8, 6, 6, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
    results, states = [], []
    for op in (plain, fused):
        torch.manual_seed(1)
        state = {
            name: value + torch.rand_like(value) if value.is_floating_point() else value.clone() for name, value in before.items()
        }
        results.append(functional_call(op, state, (x, weights)))
        states.append(state)
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    assert_equal(*states, tolerance=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in fused.state_dict().items())
    torch.testing.assert_close(fused(x, weights), plain(x, weights), rtol=0, atol=1e-10)


@pytest.mark.parametrize("space", [IMDN, DLSR])
def test_bfloat16_is_as_near_as_the_plain_one(space: str) -> None:
    torch.manual_seed(0)
    plain, fused = pair(BUILDERS[space], (16, 16), 1, torch.float32)
    exact = passed(copy.deepcopy(plain), 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = [passed(op, 16) for op in (plain, fused)]
    assert found[1]["y"].dtype == torch.bfloat16
    for name in ("y", "grad x", "grad weights"):
        errors = [((result[name].float() - exact[name]).norm() / exact[name].norm()).item() for result in found]
        assert errors[1] < max(2 * errors[0], 0.01), (name, errors)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_depthwise_convolution_and_its_derivatives(kernel: int, dilation: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 3, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=3).double()
    x = torch.rand(2, 3, 5, 6, dtype=torch.float64).to(memory_format=layout).requires_grad_()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return depthwise(x, weight, bias, dilation)

    torch.testing.assert_close(function(x, convolution.weight, convolution.bias), convolution(x), rtol=0, atol=1e-12)

    assert torch.autograd.gradcheck(function, (x, convolution.weight, convolution.bias))
    assert torch.autograd.gradgradcheck(function, (x, convolution.weight, convolution.bias))
