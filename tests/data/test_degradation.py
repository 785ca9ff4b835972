"""Degradations: each step against a formula or another implementation, and patches against whole images."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL
from scipy.ndimage import correlate
from scipy.special import j1
from torch.nn.functional import interpolate

from sr_nas.data.degradation import Degradation, DegradedPatches, degraded, gaussian_kernel, sinc_kernel
from sr_nas.data.loader import PatchDataset, ResumableLoader
from sr_nas.data.sources import Pairs, sample
from sr_nas.errors import UserError
from sr_nas.images.resize import downscale
from sr_nas.options.load import check_options
from sr_nas.options.sections import Steps, TrainDataset
from sr_nas.options.strict import Strict, section_model
from sr_nas.registry import PAIRS

HIGH_ORDER = [
    {"type": "blur", "kernels": {"iso": 1, "aniso": 1, "generalized_aniso": 1, "plateau_iso": 1, "sinc": 1}},
    {"type": "resize", "up": 0.2},
    {"type": "noise", "poisson": 0.5},
    {"type": "jpeg", "quality": [30, 95], "probability": 0.8},
    {"type": "downscale", "shuffle": True},
    {"type": "noise", "shuffle": True},
    {"type": "jpeg", "shuffle": True},
]


class Sections(Strict):
    steps: Steps


def steps(*sections: Any) -> Any:
    return check_options(Sections, {"steps": list(sections)}, "test").steps


@cache
def photo(index: int = 0) -> np.ndarray:
    return sample(scale=4).hr(index)[:160, :208]


def numbered(index: int) -> np.ndarray:
    """An image of the size of a photo whose pixels tell their own row and column."""
    return np.stack([*np.indices(photo().shape[:2]), np.zeros(photo().shape[:2])], -1).astype(np.uint8)


def photos(scale: int = 2) -> Pairs:
    return Pairs(list("abc"), scale, photo)


def run(*sections: Any, image: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """What steps make of LR, as floats."""
    low = photo() if image is None else image
    return Degradation(steps(*sections))(low, low, np.random.default_rng(seed)).astype(float)


def pillow_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    PIL.fromarray(image).save(file, "jpeg", quality=quality)
    return np.asarray(PIL.open(file))


@pytest.mark.parametrize("quality", [10, 75, 95])
def test_jpeg_is_that_of_pillow(quality: int) -> None:
    """Both are libjpeg-turbo with colour at half the resolution; builds may differ by a rounding."""
    difference = np.abs(run({"type": "jpeg", "quality": quality}) - pillow_jpeg(photo(), quality))
    assert difference.mean() < 0.05 and np.abs(run({"type": "jpeg", "quality": quality}) - photo()).mean() > 0.5


def test_qualities_are_drawn_from_the_whole_range() -> None:
    image = photo()[:32, :32]
    found = {run({"type": "jpeg", "quality": [60, 63]}, image=image, seed=seed).tobytes() for seed in range(60)}
    assert found == {pillow_jpeg(image, quality).astype(float).tobytes() for quality in (60, 61, 62, 63)}


@pytest.mark.parametrize("angle", [0.0, 0.6, np.pi / 2])
def test_a_gaussian_has_its_covariance_and_the_others_their_formula(angle: float) -> None:
    kernel = gaussian_kernel(20, 3.0, 1.5, angle)
    y, x = np.mgrid[-20:21, -20:21]
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turned @ np.diag([9.0, 2.25]) @ turned.T
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(moments, covariance, atol=1e-3)
    points = np.stack([x, y], -1)
    distance = np.einsum("...i,ij,...j", points, np.linalg.inv(covariance), points)
    for other, formula in (
        (gaussian_kernel(20, 3.0, 1.5, angle, 0.7), np.exp(-(distance**0.7) / 2)),
        (gaussian_kernel(20, 3.0, 1.5, angle, 1.8, True), 1 / (1 + distance**1.8)),
    ):
        np.testing.assert_allclose(other, formula / formula.sum(), rtol=1e-9)


def test_the_sinc_kernel_is_the_formula_and_passes_what_is_below_its_cutoff() -> None:
    kernel, cutoff = sinc_kernel(40, 1.5), 1.5
    r = np.hypot(*np.mgrid[-40:41, -40:41])
    r[40, 40] = 1
    formula = cutoff / (2 * np.pi * r) * j1(cutoff * r)
    formula[40, 40] = cutoff**2 / (4 * np.pi)
    np.testing.assert_allclose(kernel, formula / formula.sum(), rtol=1e-6)
    x = np.arange(-40, 41)
    passed, stopped = ((kernel.sum(0) * np.cos(frequency * x)).sum() for frequency in (0.9, 2.2))
    assert passed == pytest.approx(1, abs=0.1) and stopped == pytest.approx(0, abs=0.1)


def test_blur_filters_every_colour_by_its_kernel() -> None:
    blurred = run({"type": "blur", "kernel_size": 9, "sigma": 1.7})
    expected = correlate(photo().astype(float), gaussian_kernel(4, 1.7, 1.7, 0)[..., None], mode="mirror")
    np.testing.assert_allclose(blurred, expected, atol=0.51)


def test_kernels_are_drawn_as_often_as_is_asked_and_sizes_are_odd_in_the_range() -> None:
    dot = np.zeros((21, 21, 3), np.uint8)
    dot[10, 10] = 255
    blurs = [
        run({"type": "blur", "kernels": {"iso": 3, "aniso": 1}, "sigma": [1, 9], "kernel_size": [5, 9]}, image=dot, seed=seed)
        for seed in range(300)
    ]
    round_ones = sum(bool((blurred == blurred.swapaxes(0, 1)).all() and (blurred == blurred[::-1]).all()) for blurred in blurs)
    assert 0.68 < round_ones / 300 < 0.82
    sides = {int(np.ptp(np.flatnonzero(blurred.sum((1, 2))))) + 1 for blurred in blurs}
    assert sides <= {3, 5, 7, 9} and {5, 7, 9} <= sides


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("factor", [0.5, 1.25])
def test_resizing_is_that_of_pytorch_and_ends_at_the_size_of_lr(mode: str, factor: float) -> None:
    if mode == "area" and factor > 1:
        pytest.skip("OpenCV interpolates where PyTorch repeats pixels")
    resized = run({"type": "resize", "factor": factor, "modes": [mode]}, {"type": "downscale", "modes": [mode]})
    expected = torch.from_numpy(photo().astype(np.float32)).permute(2, 0, 1)[None]
    for scale in (factor, 1 / factor):
        size = [round(scale * side) for side in expected.shape[2:]]
        corners = {} if mode == "area" else {"align_corners": False}
        expected = interpolate(expected, size, mode=mode, **corners)
    np.testing.assert_allclose(resized, expected[0].permute(1, 2, 0).clip(0, 255), atol=0.6)


def test_a_factor_is_drawn_above_1_as_often_as_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[float] = []
    monkeypatch.setattr(
        "sr_nas.data.degradation._resized", lambda image, size, *_: heights.append(size[0] / 100) or np.zeros((*size, 3))
    )
    image = np.zeros((100, 100, 3), np.uint8)
    for seed in range(400):
        Degradation(steps({"type": "resize", "factor": [0.5, 1.5], "up": 0.2}))(image, image, np.random.default_rng(seed))
    drawn = np.array([height for height in heights if height != 1])
    assert 0.14 < (drawn > 1).mean() < 0.26 and drawn.min() < 0.53 and drawn.max() > 1.45


def test_downscale_begins_with_hr_and_resize_may_count_in_lr() -> None:
    hr = photo()
    lr = np.zeros((80, 104, 3), np.uint8)
    made = Degradation(steps({"type": "downscale", "modes": ["imresize"]}))(lr, hr, np.random.default_rng(0))
    assert np.abs(made.astype(int) - downscale(hr, 2)).max() <= 1  # which rounds between its passes
    kept = Degradation(steps({"type": "resize", "of": "lr", "factor": 1}))(lr, hr, np.random.default_rng(0))
    assert (kept == lr).all()


def test_gaussian_noise_has_its_deviation_and_grey_noise_is_one_for_all_colours() -> None:
    flat = np.full((300, 300, 3), 120, np.uint8)
    coloured = run({"type": "noise", "sigma": 10, "grey": 0}, image=flat) - 120
    np.testing.assert_allclose(coloured.std((0, 1)), 10, rtol=0.02)
    assert abs(np.corrcoef(coloured[..., 0].ravel(), coloured[..., 1].ravel())[0, 1]) < 0.02
    grey = run({"type": "noise", "sigma": 10, "grey": 1}, image=flat) - 120
    assert (grey == grey[..., :1]).all() and grey.std() == pytest.approx(10, rel=0.02)


def test_poisson_noise_grows_with_the_root_of_the_brightness() -> None:
    flat = np.full((300, 300, 3), 100, np.uint8)
    flat[150:] = 49
    added = run({"type": "noise", "poisson": 1, "scale": 2, "grey": 0}, image=flat) - flat
    np.testing.assert_allclose([added[:150].std(), added[150:].std()], [20, 14], rtol=0.03)
    assert np.abs(added.mean((0, 1))).max() < 0.3


def test_probability_is_how_often_a_step_is_taken() -> None:
    image = photo()[:16, :16]
    jpeg = Degradation(steps({"type": "jpeg", "quality": 20, "probability": 0.7}))
    taken = [(jpeg(image, image, np.random.default_rng(seed)) != image).any() for seed in range(400)]
    assert 0.63 < np.mean(taken) < 0.77


def test_neighbours_that_are_shuffled_come_in_every_order_and_the_others_in_theirs() -> None:
    image = photo()[:48, :48]
    first, second = {"type": "jpeg", "quality": 10}, {"type": "blur", "sigma": 2, "kernel_size": 9}
    one, other = run(first, second, image=image), run(second, first, image=image)
    assert all((run(first, second, image=image, seed=seed) == one).all() for seed in range(5))
    shuffled = [run({**first, "shuffle": True}, {**second, "shuffle": True}, image=image, seed=seed) for seed in range(60)]
    ones, others = ([(each == expected).all() for each in shuffled] for expected in (one, other))
    assert all(np.logical_xor(ones, others)) and 15 < sum(ones) < 45


@pytest.mark.parametrize("scale", [2, 4])
def test_patches_are_cut_from_the_jpeg_of_the_whole_image(scale: int) -> None:
    """So the blocks lie as in the image, and the edges of a patch are not those of a JPEG of the patch alone."""
    patches = DegradedPatches(steps({"type": "jpeg", "quality": 40}), photos(scale), 16 * scale, False, False)
    places = PatchDataset(Pairs(["a"], scale, numbered), 16 * scale, False, False)
    whole = pillow_jpeg(downscale(photo(), scale), 40)
    for draw in range(20):
        low, high = (pixels(patch) for patch in patches[0, draw])
        top, left = (int(corner) for corner in pixels(places[0, draw][1])[0, 0, :2])
        np.testing.assert_array_equal(high, photo()[top : top + 16 * scale, left : left + 16 * scale])
        np.testing.assert_array_equal(low, whole[top // scale :, left // scale :][:16, :16])


def test_patches_of_hr_are_those_of_the_whole_image_at_their_edges_too() -> None:
    chain = steps({"type": "blur", "sigma": 2, "kernel_size": 13}, {"type": "downscale", "modes": ["area"]})
    patches = DegradedPatches(chain, photos(), 32, False, False)
    places = PatchDataset(Pairs(["a"], 2, numbered), 32, False, False)
    whole = degraded(photos(), chain).lr(0)
    for draw in range(20):
        top, left = (int(corner) for corner in pixels(places[0, draw][1])[0, 0, :2])
        difference = pixels(patches[0, draw][0]).astype(int) - whole[top // 2 :, left // 2 :][:16, :16]
        assert np.abs(difference).max() <= 1  # a sum in another order


def test_lr_lies_on_hr_in_every_orientation_whatever_the_size_between() -> None:
    smooth = np.indices((160, 208)).transpose(1, 2, 0) @ np.array([[1.0, 0, 0.5], [0, 1.0, 0.3]])
    pairs = Pairs(["a"], 2, lambda index: smooth.astype(np.uint8))
    chain = steps({"type": "resize", "factor": [0.4, 1.5]}, {"type": "downscale", "modes": ["area"]})
    patches = DegradedPatches(chain, pairs, 32)
    for draw in range(60):
        low, high = patches[0, draw]
        assert low.shape == (3, 16, 16)
        means = high.reshape(3, 16, 2, 16, 2).mean((2, 4))
        inner = slice(3, -3)  # HR is clipped nowhere, but interpolation repeats the border of the image
        assert (low - means)[:, inner, inner].abs().max() < 2.1 / 255


def test_every_patch_has_its_size_and_is_the_same_whatever_was_read_before_and_by_whom() -> None:
    def loader(workers: int) -> ResumableLoader:
        return ResumableLoader(DegradedPatches(steps(*HIGH_ORDER), photos(), 32, seed=3), [0, 1, 2], 4, 3, workers)

    alone, apart, resumed = loader(0), loader(2), loader(0)
    batches = [alone.next() for _ in range(4)]
    for batch in batches:
        assert batch[0].shape == (4, 3, 16, 16) and batch[1].shape == (4, 3, 32, 32)
        assert all(torch.equal(one, other) for one, other in zip(batch, apart.next(), strict=True))
    resumed.load_state_dict({"position": 3})
    assert torch.equal(resumed.next()[0], batches[3][0])
    assert len({patch.numpy().tobytes() for patch in torch.cat([batch[0] for batch in batches])}) == 16
    other = DegradedPatches(steps(*HIGH_ORDER), photos(), 32, seed=4)
    assert not torch.equal(other[0, 0][0], DegradedPatches(steps(*HIGH_ORDER), photos(), 32, seed=3)[0, 0][0])


def test_whole_images_are_made_worse_the_same_way_every_time() -> None:
    pairs = degraded(photos(), steps(*HIGH_ORDER))
    assert (pairs.lr(1) == pairs.lr(1)).all() and pairs.lr(1).shape == (80, 104, 3)
    assert (pairs.hr(1) == photos().hr(1)).all() and not (pairs.lr(0) == photos().lr(0)).all()


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"type": "jpg"}, "unknown degradation 'jpg' - did you mean 'jpeg'? Allowed: blur, resize, downscale, noise, jpeg."),
        ({"type": "jpeg", "quality": [95, 50]}, "quality: [95, 50] is no range within 1 to 100, the least first"),
        ({"type": "jpeg", "quality": [50]}, "quality: a number or [least, most] is expected (found [50])"),
        ({"type": "jpeg", "quality": "high"}, "quality: a number or [least, most] is expected (found 'high')"),
        ({"type": "jpeg", "quality": 0}, "quality: [0, 0] is no range within 1 to 100"),
        ({"type": "jpeg", "sigma": 3}, "unknown key for type jpeg; it belongs to type blur and noise"),
        ({"type": "blur", "kernels": {"round": 1}}, "kernels.round: Input should be 'iso', 'aniso'"),
    ],
)
def test_mistakes_are_named_by_their_step(step: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        steps({"type": "jpeg"}, step)
    assert "steps.1" in str(caught.value) and text in str(caught.value)


def test_lr_images_that_nothing_would_read_are_refused() -> None:
    section = {"dataroot_gt": "options", "dataroot_lq": "options", "degradation": ["downscale"]}
    with pytest.raises(UserError, match="degradation makes LR of HR, since it has downscale, and dataroot_lq"):
        check_options(section_model(PAIRS, "folder", TrainDataset), section, "test", check_files=False)


def pixels(patch: torch.Tensor) -> np.ndarray:
    return np.rint(patch.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
