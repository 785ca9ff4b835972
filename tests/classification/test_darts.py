"""DARTS networks against the counts of their papers, and a cell spelled out once more."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sr_nas.classification.darts import DARTS, AuxiliaryHead, DARTSCell
from sr_nas.classification.darts_operations import PUBLISHED, read_cells
from sr_nas.complexity.costs import count_params
from sr_nas.errors import UserError
from sr_nas.genotype import GenotypeError, genotype_from, is_genotype_path
from sr_nas.options.strict import Component, section_model
from sr_nas.registry import CLASSIFIERS

DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), "
    "('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
TINY: dict[str, Any] = {"channels": 4, "num_cells": 3}


def on_meta(**settings: Any) -> DARTS:
    with torch.device("meta"):
        return DARTS(**settings)


def test_darts_v2_has_the_parameters_of_its_release() -> None:
    """3.349342M and 4.718752M, as its code prints them without the auxiliary head."""
    assert count_params(on_meta()) == 3_349_342
    assert count_params(on_meta(stem="imagenet", channels=48, num_cells=14, num_classes=1000)) == 4_718_752


@pytest.mark.parametrize(
    ("name", "cifar", "imagenet"),
    [("DARTS_V2", 3.3, 4.7), ("PDARTS", 3.4, 4.9), ("PC_DARTS_cifar", 3.6, 5.3), ("PC_DARTS_image", None, 5.3)],
)
def test_published_networks_have_the_parameters_of_their_papers(name: str, cifar: float | None, imagenet: float) -> None:
    if cifar is not None:
        assert round(count_params(on_meta(genotype=name)) / 1e6, 1) == cifar
    large = on_meta(genotype=name, stem="imagenet", channels=48, num_cells=14, num_classes=1000)
    assert round(count_params(large) / 1e6, 1) == imagenet


def test_multiply_adds_of_snas_on_cifar() -> None:
    """As the code of FairDARTS states (Chu et al. 2020): convolutions and classifier, for an image of 32x32."""
    network = on_meta(genotype="SNAS").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() // 2 // 10**6 == 422


def test_a_reduction_cell_follows_the_published_definition() -> None:
    """The reduction cell of DARTS_V1 written straight-line, from Liu et al. 2019, figure 5."""
    torch.manual_seed(0)
    network = DARTS(channels=4, num_cells=3, genotype="DARTS_V1").double()
    cell = network.cells[2]
    assert isinstance(cell, DARTSCell) and cell.kind == "reduce"
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    before, last = torch.randn(2, 16, 12, 8, dtype=torch.float64), torch.randn(2, 32, 6, 4, dtype=torch.float64)

    def norm(module: Any, value: torch.Tensor) -> torch.Tensor:
        mean, variance = value.mean((0, 2, 3), keepdim=True), value.var((0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = module.weight[:, None, None], module.bias[:, None, None]
        return (value - mean) / (variance + 1e-5).sqrt() * scale + shift

    def pointwise(convolution: Any, value: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oi,nihw->nohw", convolution.weight[:, :, 0, 0], value)

    def reduced(module: Any, value: torch.Tensor) -> torch.Tensor:
        value = value.clamp(min=0)
        halves = pointwise(module.even, value[:, :, ::2, ::2]), pointwise(module.odd, value[:, :, 1::2, 1::2])
        return norm(module.norm, torch.cat(halves, 1))

    def window(value: torch.Tensor, stride: int, outside: float) -> torch.Tensor:
        return F.pad(value, (1, 1, 1, 1), value=outside).unfold(2, 3, stride).unfold(3, 3, stride).flatten(4)

    def max_pool(value: torch.Tensor) -> torch.Tensor:
        return window(value, 2, -torch.inf).amax(-1)

    def avg_pool(value: torch.Tensor) -> torch.Tensor:
        return window(value, 2, 0).sum(-1) / window(torch.ones_like(value), 2, 0).sum(-1)

    s0 = reduced(cell.preprocess0, before)
    _, convolution, own_norm = cell.preprocess1.children()
    s1 = norm(own_norm, pointwise(convolution, last.clamp(min=0)))
    s2 = max_pool(s0) + max_pool(s1)
    s3 = s2 + max_pool(s0)
    s4 = max_pool(s0) + s2
    s5 = s2 + avg_pool(s0)
    expected = torch.cat((s2, s3, s4, s5), 1)
    output = cell.run(before, last, network._run_edge)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)


def test_cells_reduce_at_one_and_two_thirds() -> None:
    for num_cells, reductions in ((20, [6, 13]), (14, [4, 9]), (8, [2, 5])):
        kinds = [cell.kind for cell in on_meta(channels=2, num_cells=num_cells).cells]
        assert [index for index, kind in enumerate(kinds) if kind == "reduce"] == reductions


@pytest.mark.parametrize(("stem", "size"), [("cifar", 32), ("imagenet", 224)])
def test_an_auxiliary_head_speaks_in_training_only(stem: Any, size: int) -> None:
    network = DARTS(stem, **TINY, num_classes=7, auxiliary=True)
    x = torch.rand(2, 3, size, size)
    logits, auxiliary = network(x)
    assert logits.shape == auxiliary.shape == (2, 7)
    auxiliary.sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert "stem.0.weight" in reached and not any(name.startswith("classifier.") for name in reached)
    assert network.eval()(x).shape == (2, 7)
    # 1x1 convolution to 128, 2x2 to 768, their BatchNorms, classifier; on ImageNet without the second BatchNorm.
    width = 4 * 4 * 4
    params = width * 128 + 2 * 128 + 128 * 4 * 768 + (2 * 768 if stem == "cifar" else 0) + 768 * 7 + 7
    assert isinstance(network.auxiliary, AuxiliaryHead) and count_params(network.auxiliary) == params


def test_drop_path_spares_identities_and_eval_mode() -> None:
    torch.manual_seed(0)
    network = DARTS(**TINY, genotype="DARTS_V2")
    network.drop_path = 0.999999
    cell = network.cells[0]
    assert isinstance(cell, DARTSCell)
    x = torch.rand(2, 12, 8, 8)
    output = cell.run(x, x, network._run_edge)
    # Nodes 2 and 3 keep nothing; 4 and 5 keep the skip connection from the cell before last.
    assert not output[:, :8].any()
    torch.testing.assert_close(output[:, 8:12], cell.preprocess0(x))
    torch.testing.assert_close(output[:, 12:], cell.preprocess0(x))
    assert cell.eval().run(x, x, network.eval()._run_edge)[:, :8].any()


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_settings_build_it_again(stem: Any) -> None:
    network = DARTS(stem, **TINY, num_classes=5, genotype="SNAS", auxiliary=True, nodes=4, multiplier=3, stem_multiplier=2)
    again = CLASSIFIERS.get("DARTS")(**json.loads(json.dumps(network.settings())))
    assert again.genotype == network.genotype and again.settings() == network.settings()
    again.load_state_dict(network.state_dict())


def test_every_form_of_a_genotype_is_read() -> None:
    genotype = read_cells("DARTS_V2", 4, 4)
    assert genotype["normal4"] == ("sep_conv_3x3~1", "skip_connect~0")
    public = {
        "normal": [
            *([["sep_conv_3x3", 0], ["sep_conv_3x3", 1]] * 2),
            *(["sep_conv_3x3", 1], ["skip_connect", 0], ["skip_connect", 0], ["dil_conv_3x3", 2]),
        ],
        "reduce": [
            *(["max_pool_3x3", 0], ["max_pool_3x3", 1], ["skip_connect", 2], ["max_pool_3x3", 1]),
            *(["max_pool_3x3", 0], ["skip_connect", 2], ["skip_connect", 2], ["max_pool_3x3", 1]),
        ],
    }
    for source in (DARTS_V2, f"DARTS_V2 = genotypes.{DARTS_V2}\n", public, genotype.to_json(), genotype, PUBLISHED["DARTS_V2"]):
        assert read_cells(source, 4, 4) == genotype
    assert genotype_from(str(genotype).removeprefix("DARTS(").removesuffix(")"), "DARTS", DARTS.choices()) == genotype


def test_a_long_text_is_no_path() -> None:
    assert not is_genotype_path(DARTS_V2)
    settings = section_model(CLASSIFIERS, "DARTS", Component).model_validate({"genotype": DARTS_V2})
    assert settings.model_dump()["genotype"] == DARTS_V2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Genotype(normal=__import__('os').getcwd(), reduce=[])", "not of the form Genotype"),
        ("__import__('os').getcwd()", "not of the form Genotype"),
        ("Genotype(normal=[", "not of the form Genotype"),
        (DARTS_V2.replace("range(2, 6)", "range(10 ** 9)"), "not of the form Genotype"),
        (DARTS_V2.replace("range(2, 6)", "range(1000000000)"), "normal_concat is range"),
        (DARTS_V2.replace("range(2, 6)", "[3, 4, 5]"), r"normal_concat is \[3, 4, 5\]"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", ""), "normal has 7 edges; with 4 nodes a cell keeps 8"),
        (DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3',)"), "an edge of normal is a pair"),
        (DARTS_V2.replace("dil_conv_3x3', 2", "dil_conv_3x3', 5"), "'dil_conv_3x3~5' is not a candidate of DARTS.normal5"),
        (DARTS_V2.replace("dil_conv_3x3', 2", "zero', 2"), "'zero~2' is not a candidate of DARTS.normal5"),
        (DARTS_V2.replace("dil_conv_3x3', 2", "dil_conv_3x3', 0"), "DARTS.normal5 reads 2 different nodes"),
        ({"normal": 1, "reduce": 2}, "normal has 0 edges"),
        ("DARTS_V3", "a genotype of DARTS has 8"),
    ],
)
def test_other_genotypes_are_refused(source: object, words: str) -> None:
    with pytest.raises(GenotypeError, match=words):
        read_cells(source, 4, 4)


def test_more_outputs_than_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiplier 4 joins more than the 3 nodes"):
        section_model(CLASSIFIERS, "DARTS", Component).model_validate({"nodes": 3})
    with pytest.raises(UserError):
        DARTS(nodes=3, multiplier=3)
