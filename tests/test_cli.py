"""The commands, from their words to what they print and write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_nas.cli import COMMANDS, main
from sr_nas.export.network_file import save_network
from sr_nas.images.files import read_image, write_image
from sr_nas.inference.images import upscale_image
from sr_nas.networks.imdn import IMDN
from tests.conftest import REPOSITORY
from tests.jobs.processes import TINY_SEARCH, run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "net.safetensors"
    save_network(file, IMDN(2, nf=16, num_blocks=1).eval())
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, channels, dtype in (
        ("grey.png", 1, np.uint8),
        ("deep.tif", 3, np.uint16),
        ("clear.png", 4, np.uint8),
        ("plain.bmp", 3, np.uint8),
    ):
        write_image(folder / name, random.integers(0, np.iinfo(dtype).max, (21, 17, channels), dtype, endpoint=True))
    return folder


def test_the_help_of_every_command_needs_no_torch() -> None:
    code = (
        "import sys\nfrom sr_nas.cli import main\n"
        f"for name in {list(COMMANDS)}:\n"
        "    try: main([name, '--help'])\n    except SystemExit: pass\n"
        "print(not {'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.endswith("True\n")
    for name in COMMANDS:
        assert f"usage: {name}" in printed
        assert f'tool("{name}")' in (REPOSITORY / "tools" / f"{name}.py").read_text()


@pytest.mark.parametrize("words", [["search", "-opt", "x", "--nf", "3"], ["train"], ["evaluate", "--tile", "x"]])
def test_wrong_arguments(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serach"]) == 2
    assert "did you mean 'search'?" in capsys.readouterr().err
    assert main(["--help"]) == 0


def test_evaluate_released_imdn_on_set5(shared: Path) -> None:
    """The anchor of everything that measures: IMDN x4, 32.21 dB / .8948 (FACTS of the released weights)."""
    printed = run(
        "evaluate", "--model", shared / "weights" / "IMDN_x4.pth", "--arch", "imdn", "--data", shared / "data" / "Set5", "--json"
    )
    found = json.loads(printed[printed.index("{") :])
    assert found["scale"] == 4
    assert found["sets"]["Set5"]["psnr"] == pytest.approx(32.210, abs=0.002)
    assert found["sets"]["Set5"]["ssim"] == pytest.approx(0.8948, abs=0.0002)
    assert list(found["sets"]["Set5"]["images"]) == ["baby", "bird", "butterfly", "head", "woman"]
    assert found["sets"]["Set5"]["bicubic"]["psnr"] == pytest.approx(28.43, abs=0.01)
    assert "BT.601" in found["protocol"]["luma"]


def test_evaluate_takes_an_hr_folder_or_named_lr(model: Path, shared: Path) -> None:
    """Set5's LR images are what the protocol makes of HR, so all three ways give one number."""
    data, results = shared / "data" / "Set5", []
    for words in ([data], [data / "HR"], [data / "HR", "--lr", data / "LR_matlab" / "x2"]):
        printed = run("evaluate", "--model", model, "--json", "--data", *words)
        results.append(json.loads(printed[printed.index("{") :])["sets"]["Set5"]["psnr"])
    assert results[0] == results[1] == results[2]


def test_evaluate_in_tiles_is_near(shared: Path) -> None:
    """Near, not equal: IMDN's attention pools over each tile."""
    words = ["--model", shared / "weights" / "IMDN_x4.pth", "--arch", "imdn", "--data", shared / "data" / "Set5", "--tile", "48"]
    printed = run("evaluate", *words, "--json")
    found = json.loads(printed[printed.index("{") :])["sets"]["Set5"]["psnr"]
    assert found != pytest.approx(32.2096, abs=1e-4)
    assert found == pytest.approx(32.2096, abs=0.02)


def test_names_with_brackets_are_printed_as_they_are(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set[red]").mkdir()
    (tmp_path / "set[red]" / "a[b].png").write_bytes((photos / "grey.png").read_bytes())
    printed = run("evaluate", "--model", model, "--data", tmp_path / "set[red]")
    assert "set[red] x2" in printed and "a[b]" in printed


def test_evaluate_table_and_refusals(model: Path, photos: Path) -> None:
    printed = run("evaluate", "--model", model, "--data", photos)
    assert "bicubic dB" in printed
    assert "Protocol" in printed
    assert "upscales by 2" in run("evaluate", "--model", model, "--data", photos, "--scale", "4", code=1)
    assert "does not exist" in run("evaluate", "--model", model, "--data", photos / "gone", code=1)
    assert "of one set" in run("evaluate", "--model", model, "--data", photos, photos, "--lr", photos, code=1)
    assert "both called" in run("evaluate", "--model", model, "--data", photos, photos, code=1)


def test_inference_keeps_kind_and_depth(model: Path, photos: Path, tmp_path: Path) -> None:
    from sr_nas.export.network_file import load_network

    assert "4 written" in run("inference", "-i", photos, "-o", tmp_path, "--model", model, "--suffix", "_x2")
    network = load_network(model)
    for source in photos.iterdir():
        low, high = read_image(source), read_image(tmp_path / f"{source.stem}_x2{source.suffix}")
        assert (high.dtype, high.shape) == (low.dtype, (42, 34, low.shape[2]))
        # The command may run another kernel than a single call does, which rounds some values the other way.
        assert np.abs(high.astype(int) - upscale_image(network, low, device="cpu")).max() <= 1


def test_inference_keeps_what_is_there_and_goes_on_after_a_failure(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    out = tmp_path / "out"
    words = ["-i", tmp_path / "broken.png", photos / "grey.png", "-o", out, "--model", model]
    printed = run("inference", *words, code=1)
    assert "broken.png" in printed
    assert "1 written" in printed
    assert "1 failed" in printed
    before = (out / "grey.png").stat().st_mtime_ns
    assert "1 kept" in run("inference", *words, code=1)
    assert (out / "grey.png").stat().st_mtime_ns == before
    run("inference", *words, "--overwrite", code=1)
    assert (out / "grey.png").stat().st_mtime_ns > before


def test_inference_says_what_tiles_change(model: Path, photos: Path, tmp_path: Path) -> None:
    printed = run("inference", "-i", photos / "grey.png", "-o", tmp_path, "--model", model, "--tile", "8")
    assert "pools or resamples over the whole image" in printed


def test_a_search_option_file_for_the_wrong_tool() -> None:
    printed = run("train", "-opt", REPOSITORY / "options" / "sac_imdn.yml", code=1)
    assert "search: unknown key" in printed


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    printed = run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path / 'runs'}", code=1)
    assert "Permission denied" in printed


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    printed = run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path / 'runs'}", code=1)
    assert "File exists" in printed
