"""What is kept of a cost goes stale with everything that it depends on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.complexity.costs import cost_table
from sr_nas.complexity.derived import DerivedComplexity
from sr_nas.complexity.described import described
from sr_nas.complexity.macs import complexity
from sr_nas.genotype import genotype_from
from sr_nas.networks.imdn import IMDN_CANDIDATES
from sr_nas.spaces.dlsr import DLSRSpace
from sr_nas.spaces.imdn import IMDNSpace

NAMES = ["conv_3x3", "dsconv_3x3"]


class Shown(nn.Module):
    """What its repr does not show: a parameter's shape and a number."""

    def __init__(self, side: int, dilation: int = 1) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(4, 4, side, side))
        self.dilation = dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.kernel, dilation=self.dilation)


def test_a_description_tells_apart_what_a_repr_does_not() -> None:
    modules = [Shown(3), Shown(5), Shown(3, 2), nn.Sequential(Shown(3)), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, dilation=2)]
    assert len({described(module) for module in modules}) == len(modules)
    assert described(Shown(3)) == described(Shown(3))


def test_a_candidate_that_is_edited_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    space = IMDNSpace(2, nf=16, num_blocks=1, candidates=NAMES)
    before = cost_table(space, "flops")["conv1"]
    monkeypatch.setitem(IMDN_CANDIDATES._entries, "dsconv_3x3", lambda read, written: nn.Conv2d(read, written, 5, padding=2))
    after = cost_table(IMDNSpace(2, nf=16, num_blocks=1, candidates=NAMES), "flops")["conv1"]
    assert after[0] == before[0] and 9 * after[1] == 25 * after[0]


def write_candidate(folder: Path, kernel: int) -> ModuleType:
    """A class whose forward pass calls a function of another file of its package, which is edited."""
    package = folder / "mine"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "step.py").write_text(
        "import torch\nfrom torch.nn import functional as F\n"
        f"def step(x):\n    return F.conv2d(x, torch.zeros(x.shape[1], x.shape[1], {kernel}, {kernel}), padding={kernel // 2})\n"
    )
    (package / "candidate.py").write_text(
        "from torch import nn\nfrom mine.step import step\n"
        "class Mine(nn.Module):\n    def forward(self, x):\n        return step(x)\n"
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]
    sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
    try:
        import mine.candidate  # type: ignore[import-not-found]
    finally:
        sys.dont_write_bytecode = kept
    return mine.candidate


def test_so_is_one_whose_class_calls_a_function_that_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    costs = []
    for kernel in (3, 3, 5):
        module = write_candidate(tmp_path, kernel)
        monkeypatch.setitem(IMDN_CANDIDATES._entries, "dsconv_3x3", lambda read, written, kind=module.Mine: kind())
        costs.append(cost_table(IMDNSpace(2, nf=16, num_blocks=1, candidates=NAMES), "flops")["conv1"][1].item())
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert costs == [cost * 1280 * 720 * 16 * 16 for cost in (9, 9, 25)]


def test_a_damaged_file_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SR_NAS_CACHE", str(tmp_path))
    space = IMDNSpace(2, nf=16, num_blocks=1, candidates=NAMES)
    before = cost_table(space, "params")
    (file,) = tmp_path.rglob("params-*.json")
    for damage in ("{", "[]", file.read_text().replace("4", "four"), file.read_text().replace(".0", '".0"')):
        file.write_text(damage)
        assert all(torch.equal(before[label], costs) for label, costs in cost_table(space, "params").items())


def test_networks_of_an_imdn_space_cost_what_they_do_when_counted_whole() -> None:
    space = IMDNSpace(3, nf=16, num_blocks=2)
    count = DerivedComplexity(space)
    count(genotype_from("conv_3x3,conv_3x3,conv_3x3,conv_3x3", "IMDN", space.choices()))
    genotype = genotype_from("conv_5x5_bn,dil_dsconv_5x5,dsconv_3x3_bn,conv_3x3", "IMDN", space.choices())
    assert count(genotype) == complexity(space.derive(genotype))


def test_networks_of_a_dlsr_space_cost_what_they_do_when_counted_whole() -> None:
    """With an attention that has strides, between pixels, and with other links."""
    space = DLSRSpace(3, nf=8, num_cells=3)
    count = DerivedComplexity(space)
    count(genotype_from(["conv_1x1", "conv_1x1", "conv_1x1", "cell2+cell1"], "DLSR", space.choices()))
    genotype = genotype_from(["conv_7x7", "sep_conv_5x5", "dil_conv_3x3", "cell1+cell2"], "DLSR", space.choices())
    assert count(genotype) == complexity(space.derive(genotype))
