"""LPIPS and DISTS, whose packages and weights may be missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.metrics import perceptual_metrics

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_a_missing_package_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [known for known in sys.modules if known.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(UserError, match=rf"{name} needs torchmetrics and torchvision.*pip install 'sr_nas\[perceptual\]'"):
        perceptual_metrics([name], CPU)


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    module = ModuleType("torchmetrics.image.lpip")
    module.LearnedPerceptualImagePatchSimilarity = offline  # type: ignore[attr-defined]
    for name in ("torchvision", "torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(UserError, match=r"weights of AlexNet.*no route to host.*checkpoints"):
        perceptual_metrics(["lpips"], CPU)


@pytest.fixture
def random_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights where torchvision looks for downloaded ones: they test what is done with the networks, not the score."""
    pytest.importorskip("torchmetrics.image.dists", reason="needs the extra 'perceptual'")
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    for build, weights in ((models.alexnet, models.AlexNet_Weights), (models.vgg16, models.VGG16_Weights)):
        torch.save(build().state_dict(), tmp_path / "hub" / "checkpoints" / weights.DEFAULT.url.rpartition("/")[2])


@pytest.mark.long
@pytest.mark.usefixtures("random_backbones")
def test_each_image_is_scored_by_itself() -> None:
    from torchmetrics.functional.image.dists import deep_image_structure_and_texture_similarity
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    metrics = perceptual_metrics(["lpips", "dists"], CPU)
    images = [np.random.default_rng(seed).integers(0, 256, (64, 72, 3), np.uint8) for seed in range(3)]
    tensors = [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in images]
    for other in (1, 2):
        expected = learned_perceptual_image_patch_similarity(tensors[other], tensors[0], "alex", normalize=True)
        assert metrics["lpips"](images[other], images[0]) == pytest.approx(float(expected), rel=1e-4)
        expected = deep_image_structure_and_texture_similarity(tensors[other], tensors[0])
        assert metrics["dists"](images[other], images[0]) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert metrics["lpips"](images[0], images[0]) == 0
    assert metrics["dists"](images[0], images[0]) == pytest.approx(0, abs=1e-5)
