"""Run folders, their histories and checkpoints; damaged files are named."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.genotype import Choice
from sr_nas.optim import soap
from sr_nas.runs.run_dir import (
    CHECKPOINT,
    append_history,
    check_kinds,
    cut_history,
    load_checkpoint,
    load_tensors,
    new_run,
    read_history,
    resumable_runs,
    save_checkpoint,
)


def test_run_names(tmp_path: Path) -> None:
    assert resumable_runs(tmp_path, "a") == []
    assert [new_run(tmp_path, "a").name for _ in range(3)] == ["a", "a_2", "a_3"]
    assert resumable_runs(tmp_path, "a") == []
    (tmp_path / "a_b").mkdir()
    for name in ("a", "a_2", "a_b"):
        (tmp_path / name / "checkpoint.pt").touch()
    assert resumable_runs(tmp_path, "a") == [tmp_path / "a_2", tmp_path / "a"]


def test_history(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_history(tmp_path, {"step": step})
    with (tmp_path / "history.jsonl").open("a") as stream:
        stream.write('{"step": 4, "al')  # a kill in the middle of a line
    assert [record["step"] for record in read_history(tmp_path)] == [1, 2, 3]
    cut_history(tmp_path, 2, (1, 2, 3))
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [{"step": 1}, {"step": 2}]
    with pytest.raises(UserError, match="is it the folder of a run"):
        read_history(tmp_path / "gone")


@pytest.mark.parametrize("record", [b"{", b"3", b"[1]", b"null", b"\xff", b"[" * 5000, b'{"step": 1, "step": 2}', b"9" * 5000])
def test_a_damaged_record_is_named_by_its_line(record: bytes, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(b'{"step": 1}\n' + record + b'\n{"step": 3')
    with pytest.raises(UserError, match=r"history\.jsonl, record 2\b"):
        read_history(tmp_path)


RECORD: dict[str, Any] = {
    "epoch": 0,
    "step": 0,
    "seconds": 0.1,
    "alpha": {"a": [0.1, 1]},
    "beta": {"a": [0.5, 0.5]},
    "loss": {"task": float("nan")},
    "lambda": 0.2,
    "expected_cost": {"flops": 1.0},
    "genotype": {"arch": "X", "genotype": {"a": "x"}},
    "params": 3,
    "memory_bytes": 4,
    "truth": {"cifar10": {"valid": 1.0, "test": 2}},
}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("alpha", 3, "alpha is missing or"),
        ("alpha", {"a": [1]}, "alpha or beta is not of the search"),
        ("alpha", {}, "alpha or beta is not of the search"),
        ("beta", {"a": ["x", 1]}, r"beta\.a\.0 is"),
        ("beta", None, "beta is"),
        ("genotype", [], "genotype is"),
        ("genotype", {"arch": 3}, r"genotype\.arch"),
        ("loss", {"task": "x"}, r"loss\.task is"),
        ("step", True, "step is"),
        ("epoch", "0", "epoch is"),
        ("params", "many", "params"),
        ("truth", 3, "truth is"),
    ],
)
def test_a_search_reads_records_of_its_own_choices_alone(key: str, value: object, words: str, tmp_path: Path) -> None:
    choices = {"a": Choice(("x", "y"))}
    append_history(tmp_path, RECORD)
    assert read_history(tmp_path, choices)[0]["params"] == 3
    append_history(tmp_path, RECORD | {key: value})
    with pytest.raises(UserError, match=rf"history\.jsonl, record 2 is damaged: (its )?{words}"):
        read_history(tmp_path, choices)


def test_a_history_without_steps_cannot_be_cut(tmp_path: Path) -> None:
    append_history(tmp_path, {"step": "1"})
    with pytest.raises(UserError, match=r"history\.jsonl is damaged: a record has no whole number 'step'"):
        cut_history(tmp_path, 1, (1,))


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        (None, 1),
        ((), 1),
        ((4, 8), 1),
        ((8, 4, 0), 1),
        ((0, 8), 2),
        ((0, 4), 3),
        ((0, 4, 4), 3),
        ((0, 4, 8), 0),
    ],
)
def test_a_history_that_lacks_a_record_is_refused(steps: tuple[int, ...] | None, wrong: int, tmp_path: Path) -> None:
    if steps is not None:
        (tmp_path / "history.jsonl").touch()
    for step in (*(steps or ()), 16, 12):  # those after the checkpoint are dropped in any case
        if steps is not None:
            append_history(tmp_path, {"step": step})
    before = (tmp_path / "history.jsonl").read_bytes() if steps is not None else b""
    if wrong:
        with pytest.raises(
            UserError, match=rf"history\.jsonl is missing or damaged: record {wrong} should be .* start a new run"
        ):
            cut_history(tmp_path, 9, range(0, 21, 4))
        assert steps is None or (tmp_path / "history.jsonl").read_bytes() == before
    else:
        cut_history(tmp_path, 9, range(0, 21, 4))
        assert [record["step"] for record in read_history(tmp_path)] == [0, 4, 8]


def test_nothing_is_missing_in_a_history_before_its_first_record(tmp_path: Path) -> None:
    cut_history(tmp_path, 3, (4, 8))
    assert not list(tmp_path.iterdir())


FRESH: dict[str, Any] = {
    "step": 0,
    "best": None,
    "seconds": 0.0,
    "sums": {},
    "losses": [],
    "betas": (0.9, 0.999),
    "weight": torch.zeros(2),
    "scaler": {"scale": 1.0},
    "weight_optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "fused": None, "params": [0]}]},
}


def test_states_of_the_kinds_of_a_new_run() -> None:
    later = {
        "step": 7,
        "best": 31.5,
        "seconds": 3,
        "sums": {"loss": 1.0},
        "losses": [1.0, 2.0],
        "weight": torch.ones(2),
        "scaler": {},
    }
    group = {"lr": 0.2, "fused": True, "params": [0]}
    check_kinds(FRESH, FRESH)
    check_kinds(
        FRESH | later | {"weight_optimizer": {"state": {0: {"exp_avg": torch.ones(2), "step": 3}}, "param_groups": [group]}},
        FRESH,
    )


@pytest.mark.parametrize(
    "value", [None, "x", [], {"x": "x"}, [None], -1, True, math.nan, torch.zeros(3), torch.zeros(2).double()]
)
@pytest.mark.parametrize("key", list(FRESH))
def test_states_of_other_kinds_are_refused(key: str, value: object) -> None:
    accepted = [("best", None), ("best", -1), ("losses", []), ("seconds", -1)]
    if not isinstance(value, torch.Tensor) and (key, value) in accepted:
        check_kinds(FRESH | {key: value}, FRESH)
        return
    with pytest.raises(ValueError, match=rf"^state\.{key}\b"):
        check_kinds(FRESH | {key: value}, FRESH)


@pytest.mark.parametrize(
    "state",
    [
        *({0: "x"}, {0: {"exp_avg": None}}, {0: {"exp_avg": "x"}}, {0: []}, []),
        *({0: {"exp_avg": [torch.ones(2), 3.0]}}, {0: {"exp_avg": [["x"]]}}),
    ],
)
def test_states_of_optimizers_hold_tensors(state: object) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.state\b"):
        check_kinds(FRESH | {"weight_optimizer": FRESH["weight_optimizer"] | {"state": state}}, FRESH)


def test_states_of_optimizers_hold_lists_of_tensors() -> None:
    network = torch.nn.Conv2d(3, 4, 3)
    optimizer = soap(network.parameters())
    network(torch.ones(1, 3, 4, 4)).sum().backward()
    fresh = {"optimizer": optimizer.state_dict()}
    optimizer.step()
    check_kinds({"optimizer": optimizer.state_dict()}, fresh)


def test_a_checkpoint_with_one_changed_bit_is_refused(tmp_path: Path) -> None:
    values = torch.arange(1000.0)
    save_checkpoint(tmp_path / "c.pt", {"step": 5, "values": values})
    whole = (tmp_path / "c.pt").read_bytes()
    place = whole.index(values[500:504].numpy().tobytes())
    (tmp_path / "c.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(UserError, match=r"c\.pt is damaged"):
        load_checkpoint(tmp_path / "c.pt", torch.device("cpu"))


def test_checkpoints_bring_back_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "c.pt", {"step": 5})
    expected = torch.rand(3)
    assert load_checkpoint(tmp_path / "c.pt", torch.device("cpu")) == {"step": 5}
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 cut off", b"not torch at all", b"GIF89a\x01\x00\x01", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."],
)
def test_damaged_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.pt"):
        load_tensors(tmp_path / "c.pt")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"hello", b"\1\2\3"])
def test_a_checkpoint_of_no_known_kind_is_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(UserError, match=r"\. A checkpoint of a run is expected\.$"):
        load_checkpoint(tmp_path / CHECKPOINT, torch.device("cpu"))


def test_pytorch_says_nothing_beside_our_message(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "c.pt").write_bytes(pickle.dumps({"w": 1}, protocol=4))
    with pytest.raises(UserError, match="cannot be read as a PyTorch file"):
        load_tensors(tmp_path / "c.pt")
    torch.save({"w": torch.ones(2, 2).to_sparse_csr()}, tmp_path / "c.pt")
    recwarn.clear()
    assert load_tensors(tmp_path / "c.pt")["w"].layout == torch.sparse_csr
    assert not recwarn.list


def test_a_record_that_does_not_fit_on_the_disk_leaves_the_history_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_history(tmp_path, {"step": 1})
    before = (tmp_path / "history.jsonl").read_bytes()
    real = Path.open

    class Full:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.stream, self.calls = real(*arguments, **options), 0

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: bytes) -> int:
            self.calls += 1
            if self.calls > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.stream.write(data[:5]))

    monkeypatch.setattr(Path, "open", lambda path, *arguments, **options: Full(path, *arguments, **options))
    with pytest.raises(OSError, match="No space left") as caught:
        append_history(tmp_path, {"step": 2})
    assert caught.value.filename == str(tmp_path / "history.jsonl")
    monkeypatch.undo()
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_a_changed_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    weights = torch.arange(64.0)
    save_checkpoint(tmp_path / "c.pt", {"weights": weights})
    content = bytearray((tmp_path / "c.pt").read_bytes())
    content[content.index(weights.numpy().tobytes()) + 9] ^= 1
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"c\.pt is damaged: its part .*/data/\d+ does not have the check sum"):
        load_tensors(tmp_path / "c.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux that is always full")
def test_a_full_disk_is_said_by_every_writer_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.pt").write_bytes(b"before")
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: real(Path("/dev/full"), data))
    with pytest.raises(OSError, match="No space left") as caught:
        save_checkpoint(tmp_path / "c.pt", {"weights": torch.zeros(20000)})
    assert caught.value.filename == str(tmp_path / "c.pt")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("c.pt", b"before")]


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [False, True])
def test_what_would_run_code_is_named_and_not_run(legacy: bool, tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "canary")}, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"c\.pt was refused: it holds \w+\.mkdir") as caught:
        load_tensors(tmp_path / "c.pt")
    assert not (tmp_path / "canary").exists() and "weights_only" not in str(caught.value)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"params": {}}, tmp_path / "c.pt")
    with pytest.raises(UserError, match="is no checkpoint of a run: it holds params"):
        load_checkpoint(tmp_path / "c.pt", torch.device("cpu"))
