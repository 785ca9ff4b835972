"""Damaged models through the commands that read them: a message each, no traceback, and nothing of theirs is executed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from sr_nas.export.network_file import save_network, write_tensors
from sr_nas.networks.imdn import IMDN
from sr_nas.runs.files import KINDS
from tests.campaigns.machinery import OK, Campaign, command, fork
from tests.export.networks import tiny_imdn

pytestmark = pytest.mark.campaign
HERE = Path(__file__).parents[1] / "jobs"
NAMES = ("net.safetensors", "net.pth", "legacy.pth", "net.onnx", "net.pt2")


class Canary:
    """Makes a folder where it is unpickled by a reader that executes what a file asks for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small network as a file of each kind, written by a child."""
    place = tmp_path_factory.mktemp("models")
    outcome = fork(lambda: write_models(place), memory=None)
    assert outcome.verdict == OK, outcome.text
    return place


def write_models(place: Path) -> None:
    training = {"run": "x", "iteration": 3, "validation": {"Set5": {"psnr": 30.0, "ssim": 0.9}}}
    for name in NAMES:
        if name != "legacy.pth":
            save_network(place / name, tiny_imdn(), training)
    content = torch.load(place / "net.pth", weights_only=True)
    torch.save(content, place / "legacy.pth", _use_new_zipfile_serialization=False)


def damaged(campaign: Campaign, content: bytes, others: list[bytes]) -> bytes:
    """Return content with changed bytes, cut, doubled, with a part of another kind, or with a number of eight bytes set."""
    random, data = campaign.random, bytearray(content)
    # Half of the changes are where formats keep what says how to read the rest: near the beginning and the end.
    near = min(len(data), 1500)
    at = random.choice((random.randrange(len(data)), random.randrange(near), len(data) - 1 - random.randrange(near)))
    way = random.randrange(6)
    if way == 0:
        return bytes(data[:at])
    if way == 1:
        for _ in range(random.choice((1, 2, 8, 64))):
            data[min(len(data) - 1, max(0, at + random.randrange(-64, 64)))] = random.randrange(256)
    elif way == 2:
        data[at] ^= 1 << random.randrange(8)
    elif way == 3:
        data[at : at + 8] = random.choice((0, 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
    elif way == 4:
        length = random.randrange(1, 400)
        data[at:at] = random.choice((bytes(data[at : at + length]), random.randbytes(length)))
    else:
        other, length = random.choice(others), random.randrange(1, 2000)
        data[at : at + length] = other[:length]
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_models(name: str, campaign: Campaign, models: Path, photos: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    harmful = [pickle.dumps({"a": Canary(canary)}, protocol) for protocol in (0, 2, 4)]
    torch.save({"params": {"a": Canary(canary)}}, tmp_path / "harm.pth")
    others = [*harmful, (tmp_path / "harm.pth").read_bytes(), *((models / other).read_bytes() for other in NAMES)]
    whole, is_program = (models / name).read_bytes(), name.endswith(".pt2")
    for number in range(campaign.count(500)):
        file = tmp_path / campaign.random.choice((name, name.upper(), "noname"))
        content = damaged(campaign, whole, others)
        if number % 10 == 0:  # a whole file that asks to be executed
            content = campaign.random.choice(harmful + others[3:4])
        if is_program and not content.startswith(b"PK"):
            file = tmp_path / name
        file.write_bytes(content)
        commands = (
            ("inference", "-i", photos / "grey.png", "-o", tmp_path / "out", "--overwrite", "--num_gpu", "0", "--model", file),
            ("export", "-o", tmp_path / "out.safetensors", "--overwrite", "--model", file),
            ("complexity", "--model", file),
        )
        outcome = campaign.run(*commands[number % 3])
        # What a program of torch.export executes is not promised.
        assert is_program or not canary.exists(), outcome.text
        file.unlink()


@pytest.mark.parametrize("kind", ["checkpoint.pt", "inherited.safetensors"])
def test_damaged_states_of_runs(kind: str, campaign: Campaign, models: Path, tmp_path: Path) -> None:
    canary, words = tmp_path / "canary", ["--force_yml", f"path:experiments_root={tmp_path}", "datasets:val=null"]
    torch.save({"params": {"a": Canary(canary)}}, tmp_path / "harm.pth")
    assert command("train", "-opt", HERE / "tiny_train.yml", *words, "train:total_iter=2").verdict == OK
    folder, weights = tmp_path / "tiny_train", tmp_path / "inherited.safetensors"
    write_tensors(weights, IMDN(2, 16, 1).state_dict())
    file = folder / kind if kind == "checkpoint.pt" else weights
    whole, others = file.read_bytes(), [(tmp_path / "harm.pth").read_bytes(), *((models / name).read_bytes() for name in NAMES)]
    for number in range(campaign.count(500)):
        file.write_bytes(others[0] if number % 10 == 0 else damaged(campaign, whole, others))
        train = ["train", "-opt", HERE / "tiny_train.yml", *words, "train:total_iter=2"]
        if kind == "checkpoint.pt":
            campaign.run(*train, "--auto_resume")
        else:
            campaign.run(*train, f"path:pretrain_network_g={weights}", "path:strict_load_g=false", f"name=x{number}")
        assert not canary.exists()


def test_the_kinds_are_those_that_messages_name() -> None:
    assert all(Path(name).suffix in KINDS for name in NAMES)
