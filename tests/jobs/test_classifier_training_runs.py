"""Whole trainings of classifiers, with all that DARTS's recipe has; stopped, resumed, measured and counted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_nas.classification.darts import DARTS
from sr_nas.export.network_file import load_any, read_metadata
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.run_dir import load_tensors, read_history
from tests.conftest import REPOSITORY
from tests.jobs.processes import run
from tests.jobs.test_search_runs import assert_equal

OPTIONS = REPOSITORY / "options"
DARTS_CIFAR10, NASBENCH201 = OPTIONS / "darts" / "train_cifar10.yml", OPTIONS / "nasbench201" / "train.yml"
BATCH = 8
RECIPE = (
    "name=tiny",
    "num_gpu=0",
    f"datasets:train:batch_size_per_gpu={BATCH}",
    "network_g={type: DARTS, channels: 2, num_cells: 3, genotype: DARTS_V2}",
    "train:total_iter=8",
    "train:class_opt:label_smoothing=0.1",
    "train:warmup_iter=2",
    "val:val_freq=3",
)
CLASSES, SIDE = 6, 32


def images(folder: Path, classes: int = CLASSES) -> Path:
    """Noise around a brightness that tells the class."""
    file, random = folder / f"{classes}.npz", np.random.default_rng(0)
    if not file.exists():
        labels = np.arange(24) % classes
        x = (random.integers(0, 60, (24, SIDE, SIDE, 3)) + 190 * labels[:, None, None, None] // classes).astype(np.uint8)
        names = [f"class {number}" for number in range(classes)]
        np.savez(file, x_train=x, y_train=labels, x_test=x[::-1], y_test=labels[::-1], classes=names)
    return file


def train(root: Path, *overrides: str, file: Path = DARTS_CIFAR10, resume: bool = False, code: int = 0) -> str:
    data = [f"datasets:{key}={{type: npz, dataroot: {images(root)}}}" for key in ("train", "val")]
    words = [f"path:experiments_root={root}", *data, *(RECIPE if file == DARTS_CIFAR10 else RECIPE[:3]), *overrides]
    return run("train", "-opt", file, "--force_yml", *words, *(["--auto_resume"] if resume else []), code=code)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("classifier")
    return root / "tiny", train(root)


def accuracy(file: Path, data: Path) -> dict[str, float]:
    """Measured anew, from what the file says and nothing else, by sorting."""
    network, told = load_any(file), json.loads(read_metadata(file)["training"])
    found = np.load(data)
    x = (found["x_test"].astype(np.float32) / 255 - np.float32(told["mean"])) / np.float32(told["std"])
    with torch.inference_mode():
        order = (-network(torch.from_numpy(x).permute(0, 3, 1, 2))).argsort(1).numpy()
    right = found["y_test"][:, None]
    return {f"top{k}": 100 * float((order[:, :k] == right).any(1).mean()) for k in (1, 5)} | {"images": len(x)}


def test_best_and_last_say_what_they_are_and_give_what_the_history_says(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    history = read_history(folder)
    assert [record["iteration"] for record in history] == [3, 6, 8]
    best = max(history, key=lambda record: record["val"]["npz"]["top1"])
    for name, record in (("best", best), ("last", history[-1])):
        scores = record["val"]["npz"]
        assert accuracy(folder / f"{name}.safetensors", folder.parent / f"{CLASSES}.npz") == pytest.approx(scores)
    scores = best["val"]["npz"]
    assert f"npz top-1 {scores['top1']:.2f} % / top-5 {scores['top5']:.2f} %  best so far" in printed
    told = json.loads(read_metadata(folder / "best.safetensors")["training"])
    assert told["classes"] == [f"class {number}" for number in range(CLASSES)]


def test_parameters_are_printed_and_counted_in_the_file(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    network = DARTS(channels=2, num_cells=3, num_classes=CLASSES)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"the network has {count:,} parameters" in printed
    for model in (folder, folder / "last.safetensors"):
        assert json.loads(run("complexity", "--model", model, "--json"))["params"] == count
    assert "is a classifier, and has none" in run("complexity", "--model", folder, "--scale", "2", code=1)


def test_stopped_and_resumed_it_is_the_straight_run_to_the_bit(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stop(self: GracefulShutdown) -> bool:
        asked.append(1)
        self.signal = signal.SIGTERM if len(asked) == 5 else None
        return self()

    with monkeypatch.context() as patched:
        patched.setattr(GracefulShutdown, "agreed", stop)
        assert "stopped at iteration 5" in train(tmp_path, code=128 + signal.SIGTERM)
    torch.rand(3)
    assert "going on in" in train(tmp_path, resume=True)
    assert_equal(load_tensors(trained[0] / "checkpoint.pt"), load_tensors(tmp_path / "tiny" / "checkpoint.pt"))
    for record, again in zip(read_history(trained[0]), read_history(tmp_path / "tiny"), strict=True):
        assert record | {"memory_bytes": 0} == again | {"memory_bytes": 0}


@pytest.mark.long
def test_drop_path_and_the_auxiliary_head_take_part(trained: tuple[Path, str], tmp_path: Path) -> None:
    """From the second epoch of three batches on the losses differ without drop-path, and from the first without the head."""
    straight = [record["loss"] for record in read_history(trained[0])]
    train(tmp_path, "train:drop_path=0", "name=kept")
    kept = [record["loss"] for record in read_history(tmp_path / "kept")]
    assert kept[0] == straight[0] and kept[1] != straight[1]
    train(tmp_path, "train:auxiliary_weight=0", "name=alone")
    alone = [record["loss"] for record in read_history(tmp_path / "alone")]
    assert alone[0] < straight[0] / 1.2


def test_what_super_resolution_is_asked_of_a_classifier_is_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    model = trained[0] / "best.safetensors"
    assert "is a classifier, DARTS of 6 classes" in run("evaluate", "--model", model, "--data", "sample", code=1)
    assert "is a classifier, DARTS of 6 classes" in run("export", "--run", trained[0], "-o", tmp_path / "x.onnx", code=1)


def test_a_genotype_of_a_search_and_weights_to_start_from(tmp_path: Path) -> None:
    names = ["nor_conv_3x3", "skip_connect", "none", "nor_conv_1x1", "avg_pool_3x3", "nor_conv_3x3"]
    labels = ["1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"]
    (tmp_path / "search").mkdir()
    genotype = {"arch": "NASBench201", "genotype": dict(zip(labels, names, strict=True))}
    (tmp_path / "search" / "genotype.json").write_text(json.dumps(genotype))
    small = [f"network_g:genotype={tmp_path / 'search'}", "network_g:channels=2", "network_g:num_cells=1", "train:total_iter=1"]
    printed = train(tmp_path, *small, file=NASBENCH201)
    network = load_any(tmp_path / "tiny" / "last.safetensors")
    assert network.genotype.names == names
    assert "NAS-Bench-201 knows these cells" in printed
    start = f"path:pretrain_network_g={tmp_path / 'tiny' / 'last.safetensors'}"
    train(tmp_path, *small, start, "train:optim_g:lr=1e-12", "name=warm", file=NASBENCH201)
    warm = load_any(tmp_path / "warm" / "last.safetensors")
    assert torch.allclose(warm.get_parameter("classifier.weight"), network.get_parameter("classifier.weight"), atol=1e-9)
    text = train(tmp_path, *small, "train:drop_path=0.2", "name=none", file=NASBENCH201, code=1)
    assert "train.drop_path: NASBench201 has no operations to leave out" in text and not (tmp_path / "none").exists()


def test_validation_images_of_other_classes_are_refused(tmp_path: Path) -> None:
    text = train(tmp_path, f"datasets:val:dataroot={images(tmp_path, 3)}", code=1)
    assert "datasets.val: npz has the classes class 0, class 1, class 2, and the training images class 0" in text
