from __future__ import annotations

from typing import Any

import pytest

from sr_nas.metrics import PROTOCOL
from sr_nas.networks.imdn import IMDN
from sr_nas.report.model_card import model_card, remarks

TRAINING = {
    "run": "mine",
    "iteration": 400,
    "data": "DIV2K",
    "seed": 3,
    "loss": "L1Loss",
    "validation": {"Set5": {"psnr": 37.98765, "ssim": 0.96049}},
}
OPTIONS: dict[str, Any] = {
    "manual_seed": 3,
    "datasets": {
        "val": {"type": "folder"},
        "train": {"name": "DIV2K", "type": "folder", "gt_size": 128, "batch_size_per_gpu": 16, "dataroot_gt": "/private/folder"},
    },
    "train": {"total_iter": 500, "optim_g": {"type": "Adam", "lr": 0.001}, "ema_decay": None},
}


def rows(card: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[-1] for cells in lines}


def test_a_card_says_what_file_and_run_know() -> None:
    card = model_card("net.onnx", IMDN(4), TRAINING | {"license": "CC-BY-4.0"}, OPTIONS)
    assert card.startswith("# net\n")
    values = rows(card)
    # Hui et al. 2019, table 4, count 715K and 40.9 G for an output of 1280x720.
    assert values["parameters"] == "715,176" and values["multiply-adds, HR output 1280x720"] == "40.91 G"
    assert (values["nf"], values["num_blocks"], values["scale"], values["license"]) == ("64", "6", "4", "CC-BY-4.0")
    data = [values[f"datasets.train.{key}"] for key in ("name", "gt_size", "batch_size_per_gpu")]
    assert [values["iteration"], *data] == ["400", "DIV2K", "128", "16"]
    assert [values["train.total_iter"], values["train.optim_g"], values["manual_seed"]] == ["500", "type Adam, lr 0.001", "3"]
    assert "| Set5 | 37.988 | 0.9605 |" in card
    assert all(values[key] == text for key, text in PROTOCOL.items())
    assert 'onnxruntime.InferenceSession("net.onnx")' in card
    assert "sr-nas inference --model net.onnx" in card
    # Nothing invented, and nothing of the machine it was trained on.
    assert "ema_decay" not in card and "/private/folder" not in card


def test_what_a_training_began_with_and_its_degradations_are_said() -> None:
    degradation = [{"type": "jpeg", "quality": [40, 95], "probability": 0.8}, {"type": "noise"}]
    options = OPTIONS | {"train": {"start": "nearest", "total_iter": 500}}
    training = TRAINING | {"degradation": degradation, "begun_with": "fast_x2/last.safetensors"}
    values = rows(model_card("net.pth", IMDN(2, nf=16, num_blocks=1), training, options))
    assert values["degradation"] == "type jpeg, quality [40, 95], probability 0.8; type noise"
    assert values["begun_with"] == "fast_x2/last.safetensors" and "train.start" not in values


@pytest.mark.long
def test_where_the_lr_images_of_the_validation_are_from() -> None:
    options = OPTIONS | {"datasets": {"val": {"type": "folder", "dataroot_lq": ["/private/folder/LR"]}}}
    network = IMDN(2, nf=16, num_blocks=1)
    assert rows(model_card("net.pth", network, TRAINING, options))["lr"] == "the validation set's own images"
    assert rows(model_card("net.pth", network, TRAINING, None))["lr"] == "not stated"


@pytest.mark.long
def test_what_is_not_known_is_not_stated() -> None:
    card = model_card("net.safetensors", IMDN(2, nf=16, num_blocks=1), {"released": "a.pth"}, None)
    assert rows(card)["license"] == "not stated"
    assert "Weights released as `a.pth`" in card and "Not measured" in card
    assert "from sr_nas import load_network" in card and 'load_network("net.safetensors")' in card
    assert rows(model_card("net.pth", IMDN(2, nf=16, num_blocks=1), TRAINING, None))["loss"] == "L1Loss"


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ["It is of iteration 400 of 500; whether its training has ended is not known."]),
        ({"iterations_done": 450}, ["It is of iteration 400 of 500; its training has not ended."]),
        ({"iterations_done": 500, "bicubic": {"Set5": 33.66}}, []),
        (
            {"total_iter": 400, "bicubic": {"Set5": 40.0}},
            ["It is below bicubic upscaling on Set5: 37.988 dB and 40.000 dB."],
        ),
    ],
)
def test_an_unfinished_training_and_a_network_below_bicubic_are_said(more: dict[str, Any], words: list[str]) -> None:
    training = TRAINING | more
    assert remarks(training, OPTIONS) == words
    card = model_card("net.onnx", IMDN(2, nf=16, num_blocks=1), training, OPTIONS)
    assert all(word in card for word in words) and ("It is " in card) == bool(words)
