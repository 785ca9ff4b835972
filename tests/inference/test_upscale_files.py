"""Folders of files: what is written, kept, refused, and what a failure leaves alone."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor, nn

from sr_nas.errors import UserError
from sr_nas.images.files import Metadata, read_image, read_with_metadata, write_image
from sr_nas.images.folders import list_images
from sr_nas.inference.images import output_paths, upscale_files
from sr_nas.runs.files import ABANDONED


class Nearest(nn.Module):
    """Nearest neighbour x2 on a device with room for ``room`` pixels at a time."""

    scale = 2

    def __init__(self, room: int | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.room = room
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.upsample = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.room is not None and x[0, 0].numel() > self.room:
            raise self.error
        return self.upsample(x)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def doubled(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def images(folder: Path, *names: str, size: tuple[int, int] = (5, 4)) -> list[Path]:
    for name in names:
        write_image(folder / name, noise(*size, 3))
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("name", "channels", "dtype"),
    [
        ("a.png", 1, np.uint8),
        ("a.png", 3, np.uint16),
        ("a.png", 1, np.uint16),
        ("a.TIF", 3, np.uint16),
        ("a.webp", 3, np.uint8),
        ("a.bmp", 3, np.uint8),
    ],
)
def test_files_keep_format_channels_and_depth(tmp_path: Path, name: str, channels: int, dtype: type) -> None:
    source, pixels = tmp_path / name, noise(5, 4, channels, dtype=dtype)
    write_image(source, pixels)
    (outcome,) = upscale_files(Nearest(), [source], tmp_path / "out", suffix="_x2", device="cpu", tile=3)
    assert outcome.status == "written" and outcome.message == ""
    assert outcome.output == tmp_path / "out" / f"a_x2{source.suffix}"
    upscaled = read_image(outcome.output)
    assert upscaled.dtype == dtype
    np.testing.assert_array_equal(upscaled, doubled(pixels))
    np.testing.assert_array_equal(read_image(source), pixels)


def test_alpha_is_kept(tmp_path: Path) -> None:
    for channels in (2, 4):
        write_image(tmp_path / "a.png", noise(5, 4, channels))
        (outcome,) = upscale_files(Nearest(), [tmp_path / "a.png"], tmp_path / "out", overwrite=True, device="cpu")
        assert read_image(outcome.output).shape == (10, 8, channels)


def test_jpeg_stays_jpeg(tmp_path: Path) -> None:
    (outcome,) = upscale_files(Nearest(), images(tmp_path, "a.jpg"), tmp_path / "out", device="cpu")
    assert outcome.output.read_bytes()[:2] == b"\xff\xd8" and read_image(outcome.output).shape == (10, 8, 3)


def test_a_failing_file_leaves_the_others_alone(tmp_path: Path) -> None:
    inputs = images(tmp_path, "a.png", "b.png", "c.png")
    inputs[1].write_bytes(inputs[1].read_bytes()[:60])
    outcomes = list(upscale_files(Nearest(), inputs, tmp_path / "out", device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["written", "failed", "written"]
    assert "b.png" in outcomes[1].message and "damaged" in outcomes[1].message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_what_is_there_is_kept_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    inputs = images(tmp_path, "a.png", "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    outcomes = list(upscale_files(Nearest(), inputs, tmp_path / "out", device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["kept", "written"]
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    outcomes = list(upscale_files(Nearest(), inputs, tmp_path / "out", device="cpu", overwrite=True))
    assert [outcome.status for outcome in outcomes] == ["written", "written"]
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png"), doubled(noise(5, 4, 3)))


def test_images_are_upscaled_one_by_one_as_they_are_asked_for(tmp_path: Path) -> None:
    outcomes = upscale_files(Nearest(), images(tmp_path, "a.png", "b.png"), tmp_path / "out", device="cpu")
    next(outcomes)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_two_inputs_for_one_output_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    inputs = images(tmp_path / "one", "a.png") + images(tmp_path / "two", "b.png", "a.png")
    with pytest.raises(UserError, match=r"one.a\.png and .*two.a\.png would both become .*out.a\.png"):
        upscale_files(Nearest(), inputs, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    inputs = images(tmp_path, "a.png", "a.jpg")
    assert [path.name for path in output_paths(inputs, tmp_path / "out", "_x2")] == ["a_x2.png", "a_x2.jpg"]


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    inputs = images(tmp_path, "a.png", "a_x2.png")
    for suffix in ("", "_x2"):
        with pytest.raises(UserError, match="would be overwritten"):
            upscale_files(Nearest(), inputs, tmp_path / "new" / "..", suffix=suffix, overwrite=True, device="cpu")
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(UserError, match="would be overwritten"):
        output_paths(inputs, link, "")
    (outcome,) = upscale_files(Nearest(), inputs[:1], tmp_path, suffix="_big", device="cpu")
    assert outcome.output == tmp_path / "a_big.png"


def test_outputs_among_the_inputs_are_left_out_when_a_folder_is_its_own_output(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "a_x2.png")
    before = (tmp_path / "a_x2.png").read_bytes()
    outcomes = list(upscale_files(Nearest(), list_images(tmp_path), tmp_path, suffix="_x2", device="cpu"))
    found = {outcome.source.name: outcome.status for outcome in outcomes}
    assert found == {"a.png": "kept", "a_x2.png": "left out", "b.png": "written"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_x2.png", "b.png", "b_x2.png"]
    assert (tmp_path / "a_x2.png").read_bytes() == before


def test_names_that_are_too_long_and_links_to_themselves_fail_alone(tmp_path: Path) -> None:
    inputs = images(tmp_path, "n" * 250 + ".png", "b.png")
    inputs.append(tmp_path / "loop.png")
    inputs[-1].symlink_to("loop.png")
    outcomes = list(upscale_files(Nearest(), inputs, tmp_path / "out", suffix="_x2x2", device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["failed", "written", "failed"]
    assert "File name too long" in outcomes[0].message and "loop.png" in outcomes[2].message


def test_what_kills_have_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    inputs = images(tmp_path / "in", "day/a.png")
    (tmp_path / "out" / "day").mkdir(parents=True)
    old, new = (tmp_path / "out" / "day" / f".{name}-unfinished-x.png" for name in ("old", "new"))
    for leftover in (old, new):
        leftover.touch()
    os.utime(old, (time.time() - 2 * ABANDONED,) * 2)
    list(upscale_files(Nearest(), inputs, tmp_path / "out", roots=[tmp_path / "in"], device="cpu"))
    assert sorted((tmp_path / "out" / "day").iterdir()) == [new, tmp_path / "out" / "day" / "a.png"]


def test_what_the_format_cannot_hold_is_told_before_the_network_runs(tmp_path: Path) -> None:
    network = Nearest(0, AssertionError("it ran"))
    Image.fromarray(noise(5, 4, 4)).save(tmp_path / "alpha.jpg", "PNG")
    Image.fromarray(noise(1, 9000, 3)).save(tmp_path / "wide.webp")
    alpha, wide = upscale_files(network, list_images(tmp_path), tmp_path / "out", device="cpu")
    assert "JPEG cannot hold 4 channels (alpha)" in alpha.message and "Rename the input to end in .png" in alpha.message
    assert "WebP cannot hold 18000x2 pixels" in wide.message
    for file in list_images(tmp_path):
        file.rename(file.with_suffix(".png"))
    outcomes = upscale_files(Nearest(), list_images(tmp_path), tmp_path / "out", device="cpu")
    assert [read_image(outcome.output).shape for outcome in outcomes] == [(10, 8, 4), (2, 18000, 3)]


def test_a_suffix_that_is_a_path_and_a_folder_that_is_a_file_are_refused(tmp_path: Path) -> None:
    inputs = images(tmp_path, "a.png")
    with pytest.raises(UserError, match="cannot hold a path"):
        upscale_files(Nearest(), inputs, tmp_path / "out", suffix="/x", device="cpu")
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="cannot make the output folder"):
        upscale_files(Nearest(), inputs, tmp_path / "out", device="cpu")


CPU_ERROR = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate")


@pytest.mark.parametrize("error", [None, CPU_ERROR, MemoryError()])
def test_too_little_memory_for_a_whole_image_advises_tiles(tmp_path: Path, error: Exception | None) -> None:
    inputs = images(tmp_path, "big.png", size=(90, 100)) + images(tmp_path, "small.png")
    outcomes = list(upscale_files(Nearest(1000, error), inputs, tmp_path / "out", tile=None, device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["failed", "written"]
    assert "memory of cpu does not suffice for 100x90 pixels" in outcomes[0].message and "--tile" in outcomes[0].message


def test_tiles_are_halved_until_they_fit_and_stay_so(tmp_path: Path) -> None:
    inputs = images(tmp_path, "a.png", "b.png", size=(90, 200))
    first, second = upscale_files(Nearest(40 * 40), inputs, tmp_path / "out", tile=150, device="cpu")
    assert first.status == second.status == "written"
    assert "tiles of 150 pixels: going on with tiles of 37 pixels" in first.message and second.message == ""
    np.testing.assert_array_equal(read_image(first.output), doubled(noise(90, 200, 3)))


def test_tiles_are_not_halved_without_end(tmp_path: Path) -> None:
    (outcome,) = upscale_files(Nearest(10), images(tmp_path, "a.png", size=(90, 90)), tmp_path / "out", tile=128, device="cpu")
    assert outcome.status == "failed" and "even in tiles of 32" in outcome.message


@pytest.mark.parametrize("error", [None, CPU_ERROR, MemoryError()])
def test_by_default_the_whole_image_is_tried_first_and_then_tiles(tmp_path: Path, error: Exception | None) -> None:
    inputs = images(tmp_path, "a.png", "b.png", size=(90, 200)) + images(tmp_path, "c.png")
    network = Nearest(60 * 60, error)
    first, second, third = upscale_files(network, inputs, tmp_path / "out", device="cpu")
    assert "for 200x90 pixels: going on with tiles of 50 pixels" in first.message and first.tiles == 8
    assert second.message == third.message == "" and second.tiles == 8 and third.tiles == 1
    np.testing.assert_array_equal(read_image(first.output), doubled(noise(90, 200, 3)))
    (alone,) = upscale_files(network, inputs[2:], tmp_path / "alone", device="cpu")
    assert alone.message == "" and alone.tiles == 1


def test_an_image_on_which_the_network_fails_is_reported(tmp_path: Path) -> None:
    network = Nearest(100, RuntimeError("Kernel size can't be greater than actual input size"))
    inputs = images(tmp_path, "a.png", size=(20, 20)) + images(tmp_path, "b.png")
    outcomes = list(upscale_files(network, inputs, tmp_path / "out", device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["failed", "written"]
    assert "does not run on 20x20 pixels: Kernel size" in outcomes[0].message
    inputs = images(tmp_path, "large.png", size=(300, 300)) + inputs[1:]
    outcomes = list(upscale_files(network, inputs, tmp_path / "out", overwrite=True, device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["failed", "written"]
    assert "does not run on 300x300 pixels: Kernel size" in outcomes[0].message


@pytest.mark.parametrize("outscale", [1e6, 1e12, 1e30])
def test_an_output_too_large_for_the_memory_is_reported_before_the_network_runs(tmp_path: Path, outscale: float) -> None:
    network = Nearest(0, AssertionError("it ran"))
    (outcome,) = upscale_files(network, images(tmp_path, "a.png"), tmp_path / "out", device="cpu", outscale=outscale)
    assert outcome.status == "failed" and f"for an output of {4 * outscale:.0f}x{5 * outscale:.0f} pixels" in outcome.message


def test_folders_below_are_kept(tmp_path: Path) -> None:
    inputs = images(tmp_path / "in", "a.png", "day/a.png", "day/late/a.png")
    outcomes = list(upscale_files(Nearest(), inputs, tmp_path / "out", roots=[tmp_path / "in"] * 3, suffix="_x2", device="cpu"))
    names = ["a_x2.png", "day/a_x2.png", "day/late/a_x2.png"]
    assert [outcome.output for outcome in outcomes] == [tmp_path / "out" / name for name in names]
    assert all(outcome.output.is_file() for outcome in outcomes)


def test_the_profile_is_kept_and_what_is_dropped_is_named(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a camera"
    for name in ("a.jpg", "b.png", "c.tif", "d.webp"):
        Image.fromarray(noise(5, 4, 3)).save(tmp_path / name, icc_profile=profile, exif=exif)
    shutil.copy(tmp_path / "b.png", tmp_path / "f.bmp")
    Image.new("CMYK", (5, 4)).save(tmp_path / "e.jpg", icc_profile=profile[:16] + b"CMYK" + profile[20:])
    outcomes = list(upscale_files(Nearest(), list_images(tmp_path), tmp_path / "out", device="cpu"))
    assert [outcome.dropped for outcome in outcomes] == [()] * 4 + [("colour profile",), ("EXIF", "colour profile")]
    for outcome in outcomes[:4]:
        with Image.open(outcome.output) as image:
            assert image.info["icc_profile"] == profile and image.getexif().get(274, 1) == 1
            assert image.getexif()[271] == "a camera"
            assert image.size == (10, 8), "turned upright"
    pixels, metadata = read_with_metadata(outcomes[4].output)
    assert pixels.shape == (8, 10, 3) and metadata == Metadata()


def test_a_batch_outlives_every_kind_of_odd_file(tmp_path: Path) -> None:
    images(tmp_path, "whole.png", "cut.png", "renamed.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:70])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.bmp").write_text("no image")
    plain = Image.fromarray(noise(5, 4, 3))
    other = [Image.fromarray(255 - noise(5, 4, 3))]
    plain.save(tmp_path / "animated.png", save_all=True, append_images=other)
    plain.save(tmp_path / "animated.webp", save_all=True, append_images=other)
    plain.quantize(4).save(tmp_path / "palette.png")
    plain.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "one.png")
    Image.fromarray(noise(5, 4, 4)).save(tmp_path / "alpha.jpg", "PNG")
    found = {o.source.name: o for o in upscale_files(Nearest(), list_images(tmp_path), tmp_path / "out", device="cpu")}
    why = {
        "cut.png": "damaged",
        "empty.jpg": "empty",
        "text.bmp": "damaged",
        "animated.png": "holds 2 images",
        "animated.webp": "holds 2 images",
        "alpha.jpg": "JPEG cannot hold 4 channels",
    }
    assert {name for name, outcome in found.items() if outcome.status == "failed"} == set(why)
    assert all(name in found[name].message and text in found[name].message for name, text in why.items())
    colours = np.asarray(plain.quantize(4).convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "palette.png"), doubled(colours))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "one.png"), np.full((2, 2, 3), (9, 8, 7)))
    assert read_image(tmp_path / "out" / "cmyk.tif").shape == (10, 8, 3)
