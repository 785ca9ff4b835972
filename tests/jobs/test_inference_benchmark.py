"""The variants of inference are measured side by side, and agree."""

from __future__ import annotations

import json

import pytest
import torch

from sr_nas.commands.benchmark_inference import main
from sr_nas.errors import UserError
from sr_nas.jobs import inference_benchmark
from tests.export.networks import tiny_imdn


def test_the_variants_agree_and_are_compared_in_one_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Exports and processes take long; tests of their own cover the first.
    monkeypatch.setattr(inference_benchmark, "VARIANTS", ("plain", "ours"))
    monkeypatch.setattr(inference_benchmark, "apart", lambda _, __, **words: inference_benchmark.peak(**words))
    genotype = "conv_3x3,conv_3x3_bn,dsconv_3x3_bn,dsconv_3x3"
    words = ["--arch", "imdn", "--nf", "16", "--genotype", genotype, "--size", "40x30"]
    assert main([*words, "--rounds", "3", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [40, 30] and found["variants"]["plain"]["ratio"] == 1
    assert found["variants"].keys() == {"plain", "ours"} and not found["left_out"]
    for row in found["variants"].values():
        assert 0 < row["spread"][0] <= row["seconds"] <= row["spread"][1]
        assert row["gflops"] == pytest.approx(2e-9 * found["multiply_adds"] / row["seconds"]) and row["difference"] < 1e-5


def test_what_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UserError("onnx must be installed")

    monkeypatch.setattr(inference_benchmark, "save_onnx", refuse)
    monkeypatch.setattr(inference_benchmark, "_peak_apart", lambda *_: None)
    found = inference_benchmark.measure(tiny_imdn(), inference_benchmark.Plan((8, 8), 1, 1), torch.device("cpu"))
    assert found["left_out"] == {"onnxruntime": "onnx must be installed"}
    assert list(found["variants"]) == ["plain", "plain, memory kept", "ours"]


def test_options_that_belong_together_are_asked_for() -> None:
    with pytest.raises(UserError, match="go with --megapixels"):
        main(["--arch", "imdn", "--", "--tile", "64"])
    with pytest.raises(UserError, match="go with --arch"):
        main(["--model", "x.yml", "--nf", "16"])
