"""Options of a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_nas.analysis.model_table import BenchmarkOptions
from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from tests.conftest import REPOSITORY

SHIPPED = REPOSITORY / "options" / "benchmark.yml"


def load(*overrides: str) -> BenchmarkOptions:
    return load_options(BenchmarkOptions, SHIPPED, overrides)


def test_the_shipped_file_needs_no_data_set_and_names_the_benchmarks() -> None:
    options = load()
    assert list(options.datasets) == ["sample", "Set5", "Set14", "B100", "Urban100"]
    assert options.models == {}


def test_a_model_of_the_command_line_and_a_set_that_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "net.pth").touch()
    options = load(f"models:mine={{path: {tmp_path / 'net.pth'}, arch: imdn, ensemble: true}}", "datasets:B100=null")
    model = options.models["mine"]
    assert model is not None and (model.arch, model.ensemble, model.tile, model.precision) == ("imdn", True, None, "fp32")
    assert options.datasets["B100"] is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("models={mine: {path: gone.safetensors}}", "models.mine.path: file or folder 'gone.safetensors' does not exist"),
        ("models={mine: {pth: setup.py}}", "models.mine.pth: unknown key - did you mean 'path'?"),
        ("models={mine: {path: /, tile: 0}}", "models.mine.tile: Input should be greater than 0"),
        ("models={mine: {path: /, tile: true}}", "models.mine.tile: a number is expected, not true or false"),
        ("models={Bicubic: {path: /}}", "'bicubic' is the name of the baseline"),
        ("models={a: {path: /}, A: {path: /}}", "models: two names differ only in capital letters"),
        ("models={a/b: {path: /}}", "letters, digits and . _ + - make it up"),
        ("datasets:set5=x", "datasets: two names differ only in capital letters"),
        ("bicubic=[5]", "bicubic.0: Input should be 2, 3 or 4"),
        ("bicubic=[]", "nothing to measure, neither a model nor bicubic"),
        ("perceptual=[lpip]", "perceptual.0: Input should be 'lpips' or 'dists'"),
        ("save_image=true", "save_image: unknown key - did you mean 'save_images'?"),
    ],
)
def test_wrong_values(override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(override)
    assert words in str(caught.value)


def test_no_set_at_all() -> None:
    with pytest.raises(UserError, match="there is no set to measure on"):
        load(*(f"datasets:{name}=null" for name in ("sample", "Set5", "Set14", "B100", "Urban100")))
