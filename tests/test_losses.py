"""Task losses: against SciPy's filter, against finite differences, and what is refused."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_laplace
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.losses import charbonnier, l1, l1_hfen, laplacian_of_gaussian, mse
from sr_nas.options.strict import Component, section_model
from sr_nas.registry import LOSSES


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scipy_log(images: torch.Tensor, kernel_size: int, sigma: float) -> torch.Tensor:
    # SciPy's radius is int(truncate * sigma + 0.5); its "mirror" is the others' "reflect".
    truncate = (kernel_size // 2) / sigma
    filtered = [gaussian_laplace(channel, sigma, mode="mirror", truncate=truncate) for channel in images.flatten(0, 1).numpy()]
    return torch.from_numpy(np.stack(filtered)).view_as(images)


@pytest.mark.parametrize(
    ("kernel_size", "sigma", "size"), [(15, 1.5, (24, 31)), (15, 1.5, (8, 8)), (9, 1.0, (20, 20)), (3, 0.7, (5, 4))]
)
def test_the_filter_is_scipys(kernel_size: int, sigma: float, size: tuple[int, int]) -> None:
    images = noise(2, 3, *size)
    expected = scipy_log(images, kernel_size, sigma)
    assert expected.abs().max() > 0.05
    assert (laplacian_of_gaussian(images, kernel_size, sigma) - expected).abs().max() < 1e-10
    assert (laplacian_of_gaussian(images.float(), kernel_size, sigma) - expected).abs().max() < 1e-6


def test_the_default_filter_is_the_papers_15_pixels() -> None:
    images = noise(1, 1, 20, 20)
    expected = gaussian_laplace(images[0, 0].numpy(), 1.5, mode="mirror", truncate=4.5)
    assert np.abs(laplacian_of_gaussian(images)[0, 0].numpy() - expected).max() < 1e-10


def test_flat_areas_hardly_answer_and_a_paraboloid_answers_with_its_laplacian() -> None:
    assert laplacian_of_gaussian(torch.ones(1, 1, 16, 16)).abs().max() < 1e-5
    y, x = torch.meshgrid(torch.arange(31.0).double(), torch.arange(31.0).double(), indexing="ij")
    inner = laplacian_of_gaussian((x**2 + 2 * y**2)[None, None])[..., 7:-7, 7:-7]
    # What is cut off beyond 4.67 sigma weighs little, times values up to 2700.
    torch.testing.assert_close(inner, torch.full_like(inner, 6.0), atol=0.03, rtol=0)


def test_the_hfen_loss_is_the_formula_with_scipys_filter() -> None:
    output, target = noise(2, 3, 24, 24), noise(2, 3, 24, 24, seed=1)
    hfen = (scipy_log(output, 15, 1.5) - scipy_log(target, 15, 1.5)).abs().mean()
    expected = 255 * ((output - target).abs().mean() + 0.2 * hfen)
    torch.testing.assert_close(l1_hfen(output, target, loss_weight=255), expected, rtol=1e-12, atol=0)
    without = l1_hfen(output, target, hfen_weight=0)
    torch.testing.assert_close(without, F.l1_loss(output, target), rtol=1e-12, atol=0)


def test_its_gradient_is_that_of_finite_differences() -> None:
    output, target = noise(1, 2, 9, 8).requires_grad_(), noise(1, 2, 9, 8, seed=1)
    assert torch.autograd.gradcheck(lambda image: l1_hfen(image, target, hfen_weight=3.0), output)


def test_bf16_autocast_does_not_coarsen_the_filter() -> None:
    output, target = noise(1, 3, 24, 24).float(), noise(1, 3, 24, 24, seed=1).float()
    exact = laplacian_of_gaussian(output - target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(laplacian_of_gaussian(output - target), exact, rtol=0, atol=0)


def test_images_no_larger_than_half_the_filter_are_refused() -> None:
    with pytest.raises(UserError, match=r"of 15 pixels needs images larger than 7 pixels, and these have 7 x 20: raise"):
        l1_hfen(torch.zeros(1, 3, 7, 20), torch.zeros(1, 3, 7, 20))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_size": 14}, "must be odd, and 14 is not"),
        ({"kernel_size": 1}, "greater than or equal to 3"),
        ({"sigma": 0}, "greater than 0"),
        ({"hfen_weight": -1}, "greater than or equal to 0"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        section_model(LOSSES, "L1HFENLoss", Component).model_validate({"type": "L1HFENLoss", **options})


def test_l1_and_mse_are_the_means() -> None:
    output, target = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])
    assert l1(output, target, loss_weight=255).item() == 255 * 2
    assert mse(output, target, loss_weight=2).item() == 2 * 5


def test_charbonnier_is_the_formula_and_smooth_at_zero() -> None:
    output, target = noise(2, 3, 5, 4), noise(2, 3, 5, 4, seed=1)
    expected = 3 * np.sqrt((output.numpy() - target.numpy()) ** 2 + 1e-4).mean()
    assert charbonnier(output, target, loss_weight=3, eps=1e-4).item() == pytest.approx(expected, rel=1e-12)
    same = target.clone().requires_grad_()
    charbonnier(same, target).backward()
    assert charbonnier(same, target).item() == pytest.approx(1e-6, rel=1e-9)
    assert same.grad is not None and not same.grad.any()


def test_charbonnier_is_basicsrs(basicsr: ModuleType) -> None:
    from basicsr.losses.basic_loss import CharbonnierLoss

    output, target = noise(2, 3, 5, 4), noise(2, 3, 5, 4, seed=1)
    torch.testing.assert_close(charbonnier(output, target, loss_weight=2), CharbonnierLoss(2.0)(output, target))
