from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sr_nas.complexity.costs import cost_table
from sr_nas.spaces.dlsr import DLSRSpace


def test_choices() -> None:
    choices = DLSRSpace(2, nf=8, num_cells=4).choices()
    assert list(choices) == ["op1", "op2", "op3", "inputs3", "inputs4"]
    assert choices["inputs4"].candidates == ("cell1", "cell2", "cell3") and choices["inputs4"].picks == 2
    assert [choice.of for choice in choices.values()] == ["operations"] * 3 + ["inputs"] * 2
    assert list(DLSRSpace(2, nf=8, num_cells=2).choices()) == ["op1", "op2", "op3"]


def test_costs_by_hand() -> None:
    """Per cell: conv_7x7 48 * 48 * 49 values; sep_conv_5x5 twice 48 * 25 + 48 * 48; dil_conv_3x3 once 48 * 9 + 48 * 48."""
    space = DLSRSpace(2)
    for cost, pixels in (("params", 1), ("flops", 1280 * 720)):
        table = {
            label: dict(zip(space.candidates, costs.tolist(), strict=True)) for label, costs in cost_table(space, cost).items()
        }
        for label in ("op1", "op2", "op3"):
            assert table[label]["conv_7x7"] == pytest.approx(6 * 48 * 48 * 49 * pixels)
            assert table[label]["sep_conv_5x5"] == pytest.approx(6 * 2 * (48 * 25 + 48 * 48) * pixels)
            assert table[label]["dil_conv_3x3"] == pytest.approx(6 * (48 * 9 + 48 * 48) * pixels)


def test_the_supernet_weighs_inputs_before_it_joins_them() -> None:
    """The join of cell 4 sees beta_i times the output of cell i (Huang et al. 2021), the join being linear in each."""
    torch.manual_seed(0)
    space = DLSRSpace(2, nf=8, num_cells=4).double()
    weights = {label: torch.rand(len(choice.candidates), dtype=torch.float64) for label, choice in space.choices().items()}
    seen = {}
    for label, join in space.joins.items():
        join.register_forward_pre_hook(lambda _, arguments, label=label: seen.update({label: arguments[0]}))
    outputs = []
    for cell in space.cells:
        cell.attention.register_forward_hook(lambda *arguments: outputs.append(arguments[2]))
    space(torch.rand(1, 3, 16, 16, dtype=torch.float64), weights)
    expected = torch.cat([weight * output for weight, output in zip(weights["inputs4"], outputs[:3], strict=True)], dim=1)
    torch.testing.assert_close(seen["inputs4"], expected)


def test_a_mixed_residual_block_by_hand() -> None:
    """One operation: leaky_relu(sum_i beta_i o_i(x) + x), and distilled before it runs."""
    torch.manual_seed(0)
    space = DLSRSpace(2, nf=8, num_cells=2, candidates=["conv_1x1", "conv_3x3"]).double()
    cell, x = space.cells[0], torch.rand(1, 8, 16, 16, dtype=torch.float64)
    weights = [torch.rand(2, dtype=torch.float64) for _ in range(3)]
    found = cell.run(
        x, [lambda value, op=op, weight=weight: op(value, weight) for op, weight in zip(cell.ops, weights, strict=True)]
    )
    kept, hidden = [], x
    for op, weight, distill in zip(cell.ops, weights, cell.distill, strict=True):
        kept.append(F.leaky_relu(F.conv2d(hidden, distill.weight, distill.bias), 0.05))
        small, large = (op.candidates[name].weight for name in ("conv_1x1", "conv_3x3"))
        mixed = weight[0] * F.conv2d(hidden, small) + weight[1] * F.conv2d(hidden, large, padding=1)
        hidden = F.leaky_relu(mixed + hidden, 0.05)
    kept.append(F.leaky_relu(F.conv2d(hidden, cell.last.weight, cell.last.bias, padding=1), 0.05))
    fused = F.conv2d(torch.cat(kept, 1), cell.fuse.weight, cell.fuse.bias)
    torch.testing.assert_close(found, cell.attention(fused))
