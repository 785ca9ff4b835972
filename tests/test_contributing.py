"""The example of CONTRIBUTING.md, and one of each further kind of extension, work as they stand."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import yaml

import sr_nas.registry
from sr_nas.build import build_searcher
from sr_nas.complexity.costs import cost_table
from sr_nas.complexity.macs import complexity
from sr_nas.contracts import reparameterized
from sr_nas.networks.imdn import IMDN, IMDN_CANDIDATES
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import REGULARIZERS, SPACES, Registry
from sr_nas.search.objective import ChoiceLogits
from tests.conftest import REPOSITORY

OPTIONS = REPOSITORY / "tests/jobs/tiny.yml"

CANDIDATE = '''
import torch
from torch import nn
from torch.nn import functional as F
from sr_nas.networks.imdn import IMDN_CANDIDATES

@IMDN_CANDIDATES.register("rep_3x3")
class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, which become one for inference (RepVGG, Ding et al. 2021)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.large = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.small = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.large(x) + self.small(x)

    def reparameterize(self) -> nn.Module:
        merged = nn.Conv2d(self.large.in_channels, self.large.out_channels, 3, padding=1)
        merged.weight.data = self.large.weight.data + F.pad(self.small.weight.data, (1, 1, 1, 1))
        merged.bias.data = self.large.bias.data + self.small.bias.data
        return merged
'''

PENALTY = '''
from collections.abc import Mapping
import torch
from torch import Tensor
from sr_nas.registry import REGULARIZERS
from sr_nas.search.objective import ChoiceLogits

@REGULARIZERS.register()
def share(alpha: Mapping[str, ChoiceLogits], *, name: str = "skip_connect") -> Tensor:
    """Mean beta of one candidate over the choices that have it."""
    choices = [choice for choice in alpha.values() if name in choice.candidates]
    return torch.stack([choice.logits.softmax(-1)[choice.candidates.index(name)] for choice in choices]).mean()
'''

SPACE = '''
from typing import Annotated
from annotated_types import Ge
from torch import nn
from torch.nn import functional as F
from sr_nas.contracts import SRNetwork
from sr_nas.genotype import Choice, GenotypeLike, genotype_from
from sr_nas.networks.imdn import IMDN_CANDIDATES
from sr_nas.registry import NETWORKS, SPACES
from sr_nas.spaces.base import ChoiceSpace

LABELS = ("first", "second")

class Block(nn.Module):
    def __init__(self, ops, nf):
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x):
        return self.run(x, self.ops)

    def run(self, x, ops):
        first, second = ops
        return x + second(F.relu(first(x)))

class PlainFrame(nn.Module):
    def __init__(self, scale, nf, num_blocks, build_op):
        super().__init__()
        self.scale, self.nf, self.num_blocks = scale, nf, num_blocks
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.blocks = nn.ModuleList(Block([build_op(label, nf, nf) for label in LABELS], nf) for _ in range(num_blocks))
        self.tail = nn.Conv2d(nf, 3 * scale**2, 3, padding=1)

    def reconstruct(self, x, blocks):
        x = self.head(x)
        for block in blocks:
            x = block(x)
        return F.pixel_shuffle(self.tail(x), self.scale)

    def frame_settings(self):
        return {"scale": self.scale, "nf": self.nf, "num_blocks": self.num_blocks}

@NETWORKS.register()
class Plain(PlainFrame, SRNetwork):
    """Residual blocks of two searched convolutions."""

    arch = "Plain"

    def __init__(
        self, scale: int = 2, nf: Annotated[int, Ge(4)] = 16, num_blocks: int = 2, genotype: GenotypeLike = "conv_3x3,conv_3x3"
    ):
        self.genotype = genotype_from(genotype, self.arch, self.choices())
        build = lambda label, *channels: IMDN_CANDIDATES.get(self.genotype[label][0])(*channels)
        super().__init__(scale, nf, num_blocks, build)

    @staticmethod
    def choices():
        return {label: Choice(tuple(IMDN_CANDIDATES.names())) for label in LABELS}

    def settings(self):
        return self.frame_settings() | {"genotype": self.genotype.names}

    def forward(self, x):
        return self.reconstruct(x, self.blocks)

@SPACES.register("Plain")
class PlainSpace(ChoiceSpace, PlainFrame):
    """Supernet of Plain."""

    network, registry, operations, labels = Plain, IMDN_CANDIDATES, ("conv_3x3", "dsconv_3x3"), LABELS

    def __init__(self, scale: int = 2, nf: Annotated[int, Ge(4)] = 16, num_blocks: int = 2, candidates: list[str] | None = None):
        self.check(candidates)
        super().__init__(scale, nf, num_blocks, self.mixed_operations(candidates, 1, False, "fused"))
'''


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of an example leave with it."""
    for registry in (IMDN_CANDIDATES, *vars(sr_nas.registry).values()):
        if isinstance(registry, Registry):
            registry.names()
            monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def run(code: str) -> None:
    exec(compile(code, "example.py", "exec", dont_inherit=True), {"__name__": "example"})


def alpha(**logits: list[float]) -> dict[str, ChoiceLogits]:
    names = ("none", "skip_connect", "conv", "pool")
    return {label: ChoiceLogits(names[: len(values)], torch.tensor(values)) for label, values in logits.items()}


def test_the_regularizer_of_the_document() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,), (options,) = (re.findall(rf"```{language}\n(.*?)```", text, re.S) for language in ("python", "yaml"))
    run(f"from sr_nas.search.objective import *\nfrom annotated_types import Gt\n{code}")
    section = yaml.safe_load(options)["search"]["regularizer"]
    checked = load_options(SearchOptions, OPTIONS, [f"search:regularizer={section}"]).search.regularizer
    entropy = REGULARIZERS.build(checked)(alpha(one=[0.0] * 4, two=[0.0] * 4))
    assert entropy.item() == pytest.approx(1.3862943)  # log 4, the entropy of an even draw among four


def test_a_candidate_that_reparameterises_itself() -> None:
    run(CANDIDATE)
    options = load_options(SearchOptions, OPTIONS, ["network_g:candidates=[conv_3x3, rep_3x3]"])
    space: Any = SPACES.build(options.network_g)(scale=2)
    network = space.derive(space.decode({label: torch.tensor([0.0, 1.0]) for label in space.choices()})).eval()
    deployed, x = reparameterized(network), torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(deployed(x), network(x))
    assert [type(conv).__name__ for conv in deployed.blocks[0].convs] == ["Conv2d"] * 4
    plain = IMDN(2, network.nf, network.num_blocks)
    assert complexity(network) == complexity(plain)
    costs = cost_table(space, "flops")["conv1"]
    assert costs[0] == costs[1] > 0


def test_a_penalty_on_one_operation() -> None:
    run(PENALTY)
    options = load_options(
        SearchOptions, OPTIONS, ["search:regularizer={type: share, name: dsconv_3x3, schedule: {type: linear, slope: 0.2}}"]
    )
    searcher = build_searcher(options, torch.device("cpu"))
    parts = searcher.alpha_step(searcher.next_batch(searcher.training))
    assert parts["regularizer"].item() == pytest.approx(0.2 / 3, rel=0.01)  # lambda_1 times an even share among three
    even = REGULARIZERS.get("share")(alpha(one=[0.0] * 4, two=[0.0] * 2, three=[0.0]))
    assert even.item() == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_a_new_search_space() -> None:
    run(SPACE)
    options = load_options(SearchOptions, OPTIONS, ["network_g={type: Plain, nf: 8}", "search:steps_per_epoch=1"])
    searcher = build_searcher(options, torch.device("cpu"))
    assert searcher.run(lambda _: None, lambda _: None) and searcher.genotype().arch == "Plain"
    space = searcher.space.eval()
    weights = {label: torch.tensor([0.0, 1.0]) for label in space.choices()}
    network = space.derive(space.decode(weights)).eval()
    network.load_state_dict(space.inherited(network.genotype))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(space(x, weights), network(x), rtol=0, atol=1e-5)
