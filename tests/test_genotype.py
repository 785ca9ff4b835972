from __future__ import annotations

import json
from pathlib import Path

import pytest

from sr_nas.errors import UserError
from sr_nas.genotype import Choice, Genotype, GenotypeError, genotype_from, read_genotype

CHOICES = {"first": Choice(("conv_3x3", "conv_5x5")), "inputs": Choice(("a", "b", "c"), picks=2, of="inputs")}
EXPECTED = Genotype("Toy", (("first", ("conv_5x5",)), ("inputs", ("a", "c"))))


@pytest.mark.parametrize(
    "source",
    [
        EXPECTED,
        EXPECTED.to_json(),
        json.loads(json.dumps(EXPECTED.to_json())),
        {"first": "conv_5x5", "inputs": ["a", "c"]},
        ["conv_5x5", ["a", "c"]],
        ["conv_5x5", "a+c"],
        "conv_5x5, a + c",
        {"first": ["conv_5x5"], "inputs": "a+c"},
    ],
)
def test_every_form_gives_the_same_genotype(source: object) -> None:
    assert genotype_from(source, "Toy", CHOICES) == EXPECTED


def test_names_in_a_string() -> None:
    choices = {"x": Choice(("p", "q")), "y": Choice(("p", "q"))}
    assert genotype_from("q, p", "Toy", choices).names == ["q", "p"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (["conv3x3", "a"], "did you mean 'conv_3x3'"),
        (["conv_3x3"], "names 2 candidates"),
        ({"first": "conv_3x3"}, "lacks inputs"),
        ({"frist": "conv_3x3", "inputs": "a"}, "did you mean 'first'"),
        ({"arch": "Other", "genotype": ["conv_3x3", "a"]}, "of Other, not of Toy"),
        (3, "a list of names"),
        (["conv_3x3", "a"], "Toy.inputs keeps 2 different names of a, b, c; given: a"),
        (["conv_3x3", "a+a"], "keeps 2 different names"),
        (["conv_3x3", "a+b+c"], "keeps 2 different names"),
        (["conv_3x3", 4.5], "is a name or a list of names, not 4.5"),
        (["conv_3x3", [4, 5]], "'4' is not a candidate of Toy.inputs"),
        ({"first": [["conv_3x3"]], "inputs": "a+b"}, "is not a candidate of Toy.first"),
        ("conv_3x3+conv_5x5, a+b", "Toy.first keeps one name"),
    ],
)
def test_what_is_wrong_is_named(source: object, words: str) -> None:
    with pytest.raises(GenotypeError, match=words):
        genotype_from(source, "Toy", CHOICES)


def test_read_from_a_run_folder_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_text(json.dumps(EXPECTED.to_json()))
    for source in (tmp_path, str(tmp_path), tmp_path / "genotype.json"):
        assert genotype_from(read_genotype(source), "Toy", CHOICES) == EXPECTED
    assert read_genotype("conv_3x3,a") == "conv_3x3,a"
    (tmp_path / "bom.json").write_text(json.dumps(EXPECTED.to_json()), encoding="utf-8-sig")
    assert genotype_from(read_genotype(tmp_path / "bom.json"), "Toy", CHOICES) == EXPECTED
    for broken in ("{", "[" * 100_000, '{"arch": "Toy", "arch": "Toy"}', "9" * 5000, "\x00"):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises(UserError, match=r"broken\.json.* is no JSON"):
            read_genotype(tmp_path / "broken.json")
    for other in ("3", "null", '"conv_3x3"', '{"arch": 3, "genotype": []}'):
        (tmp_path / "broken.json").write_text(other)
        with pytest.raises(UserError, match=r"broken\.json holds no genotype"):
            read_genotype(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_bytes(b'{"arch": "T\xe4"}')
    with pytest.raises(UserError, match=r"broken\.json is no JSON: 'utf-8' codec"):
        read_genotype(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_text(r'{"arch": "\ud800"}')
    with pytest.raises(UserError, match=r"broken\.json is no JSON: .* surrogates not allowed"):
        read_genotype(tmp_path / "broken.json")
    (tmp_path / "whole.json").write_text(r'{"arch": "\ud83d\ude00"}')
    assert read_genotype(tmp_path / "whole.json") == {"arch": "\N{GRINNING FACE}"}
    with pytest.raises(UserError, match=r"gone\.json does not exist"):
        read_genotype(tmp_path / "gone.json")
