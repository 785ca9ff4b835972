"""The command ``inference`` over folders of frames: order, structure, restarts, and what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_nas.cli import main
from sr_nas.export.network_file import load_network
from sr_nas.images.files import read_image, write_image
from sr_nas.images.resize import imresize
from sr_nas.inference.images import upscale_image
from tests.export.named import make_named
from tests.images.encoded import make_unreadable
from tests.jobs.processes import run


def frames(folder: Path, *numbers: int) -> list[Path]:
    files = [folder / f"frame_{number}.png" for number in numbers]
    for file in files:
        write_image(file, np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8))
    return files


def test_frames_are_taken_in_order_and_a_restart_goes_on(model: Path, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip", tmp_path / "out"
    files = frames(clip, 1, 2, 9, 10, 11)
    for file in files[2:4]:
        file.write_bytes(b"damaged")
    printed = run("inference", "-i", clip, "-o", out, "--model", model, code=1)
    assert "3 written" in printed and "2 failed" in printed
    assert printed.index("frame_9.png") < printed.index("frame_10.png")
    frames(clip, 9, 10)
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert "2 written" in (printed := run("inference", "-i", clip, "-o", out, "--model", model)) and "3 kept" in printed
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_a_log_tells_how_far_a_batch_is(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames(tmp_path / "clip", *range(4))  # of 12x9 pixels, so of 2x2 tiles
    words = ["inference", "-i", tmp_path / "clip", "-o", tmp_path / "out", "--model", model, "--tile", "8"]
    assert "minutes left" not in run(*words)
    monkeypatch.setattr("sr_nas.jobs.inference.LOGGED_EVERY", 0.0)
    for name in ("frame_2.png", "frame_3.png"):
        (tmp_path / "out" / name).unlink()
    lines = [line for line in run(*words).splitlines() if "minutes left" in line]
    assert [float(line.partition(" of 2 images")[0]) for line in lines] == [0.2, 0.5, 0.8, 1.0, 1.0, 1.2, 1.5, 1.8]


def test_recursive_keeps_folders_and_skips_the_output(model: Path, tmp_path: Path) -> None:
    frames(tmp_path / "one", 1)
    frames(tmp_path / "one" / "two", 1, 2)
    words = ["-i", tmp_path, "-o", tmp_path / "out", "--model", model, "-r"]
    assert "3 written" in run("inference", *words)
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert found == ["one/frame_1.png", "one/two/frame_1.png", "one/two/frame_2.png"]
    assert "0 written" in (printed := run("inference", *words)) and "3 kept" in printed


def test_what_cannot_be_read_fails_and_is_named_and_the_others_go_on(model: Path, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip", tmp_path / "out"
    frames(clip, 1, 2)
    reasons = make_unreadable(clip)
    (clip / "shut.png").unlink()
    reasons.pop("shut.png", None)
    (clip / "folder.png").mkdir()
    write_image(clip / "portrait.JFIF", np.zeros((6, 5, 3), np.uint8))
    (clip / "photo.JXL").touch()
    (out / "frame_2.png").mkdir(parents=True)
    words = ["-i", clip, "/nowhere/locked/b.png", "-o", out, "--model", model]
    printed = run("inference", *words, code=1)
    for name, reason in (reasons | {"folder.png": "it is a folder", "b.png": "No such file"}).items():
        assert re.search(rf"{name}: cannot read the image .*{name}: .*{reason}", printed)
    assert "1 images of other kinds are left out (photo.JXL)" in printed
    assert f"{out / 'frame_2.png'} is a folder" in printed and f"2 written to {out}" in printed and "6 failed" in printed
    assert not (out / "folder.png").exists() and read_image(out / "portrait.JFIF").shape == (12, 10, 3)
    frames(clip / "folder.png", 3)
    assert "1 written" in (printed := run("inference", *words, "-r", code=1)) and "2 kept" in printed
    assert read_image(out / "folder.png/frame_3.png").shape == (24, 18, 3)


def test_an_empty_folder_among_others_does_not_stop_them(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    frames(tmp_path / "clip", 1)
    words = ["-o", tmp_path / "out", "--model", model]
    printed = run("inference", "-i", tmp_path / "empty", tmp_path / "clip", *words, code=1)
    assert "1 written" in printed and f"no image in {tmp_path / 'empty'}" in printed
    frames(tmp_path / "clip", 2)
    words = ["-i", tmp_path / "clip", "-o", tmp_path / "clip", "--suffix", "_x2", "--model", model]
    assert "2 written" in run("inference", *words)
    assert "2 kept" in (printed := run("inference", *words)) and "2 left out as outputs of others" in printed


def test_outscale_and_ensemble_reach_the_network(model: Path, tmp_path: Path) -> None:
    (file,) = frames(tmp_path, 1)
    run("inference", "-i", file, "-o", tmp_path / "out", "--model", model, "--outscale", "3.5", "--ensemble")
    by_network = upscale_image(load_network(model), read_image(file), device="cpu", ensemble=True)
    found = read_image(tmp_path / "out" / file.name)
    np.testing.assert_array_equal(found, imresize(by_network, 42, 32))  # 31.5 and 9 * 3.5 round to even
    refused = run("inference", "-i", file, "-o", tmp_path / "new", "--model", model, "--outscale", "0", code=1)
    assert "above 0" in refused and not (tmp_path / "new").exists()


def test_what_is_dropped_is_one_line_and_half_precision_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "a camera"
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, exif=exif, comment=b"hello")
    words = ["-i", tmp_path, "-o", tmp_path / "out", "--model", model, "--num_gpu", "0"]
    refused = run("inference", *words, "--precision", "fp16", code=1)
    assert "fp16 is for a GPU" in refused and not (tmp_path / "out").exists()
    assert "not in the output: text of 2" in run("inference", *words)


@pytest.mark.parametrize("tile", ["0", "-3", "half"])
def test_a_tile_is_auto_whole_or_a_number(model: Path, tmp_path: Path, tile: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["inference", "-i", str(tmp_path), "-o", str(tmp_path), "--model", str(model), f"--tile={tile}"])
    assert "is neither auto nor whole nor a whole number" in capsys.readouterr().err


def test_inference_keeps_kind_and_depth(model: Path, photos: Path, tmp_path: Path) -> None:
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


def test_without_a_model_the_scale_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = make_named(tmp_path / "models", monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x2").mkdir()  # a folder of photos, perhaps; without --model nothing but the package's is meant
    (file,) = frames(tmp_path, 1)
    words = ["inference", "-i", file, "-o"]
    printed = run(*words, "a")
    assert "network: x2, which ships with sr_nas" in printed and read_image(tmp_path / "a" / file.name).shape == (24, 18, 3)
    run(*words, "b", "--model", named / "x2.safetensors")
    assert (tmp_path / "b" / file.name).read_bytes() == (tmp_path / "a" / file.name).read_bytes()
    assert "network: x4" in run(*words, "c", "--scale", "4") and read_image(tmp_path / "c" / file.name).shape == (48, 36, 3)
    assert "network: fast_x2" in run(*words, "d", "--model", "fast_x2")
    assert "--scale 3: fast_x2 upscales by 2" in run(*words, "e", "--model", "fast_x2", "--scale", "3", code=1)
    assert "Networks by name: fast_x2, x2, x4." in run(*words, "e", "--scale", "3", code=1)
    assert "x2 is taken from" in run(*words, "e", "--model", "x2", code=1)
    assert "holds no trained network" in run(*words, "e", "--model", "", code=1), "an empty variable of a script, perhaps"
    assert not (tmp_path / "e").exists()
