"""Run folders ``experiments/<name>``, which are never overwritten: checkpoints, history, and a record of how the run was made."""

from __future__ import annotations

import itertools
import json
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

import sr_nas
from sr_nas.errors import UserError, first_line, is_out_of_memory, parse_json, shortened
from sr_nas.genotype import Choices
from sr_nas.runs.distributed import world_size
from sr_nas.runs.files import kind_of, naming, replacing, write_text

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"
OPTIONS = "options.yml"
PROVENANCE = "run.json"
PACKAGES = ("torch", "numpy", "pydantic", "fvcore", "scikit-image", "opencv-python-headless", "safetensors", "lmdb", "basicsr")
"""Packages whose versions are recorded with a run."""


def new_run(root: Path, name: str) -> Path:
    """Create and return ``root/name``, or ``root/name_2``, ``root/name_3`` ... where that exists already."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def run_folders(root: Path, name: str) -> list[Path]:
    """Return the folders ``root/name``, ``root/name_2`` ..., the newest first."""
    pattern = re.compile(re.escape(name) + r"(?:_(\d+))?")
    found = [(int(match[1] or 1), path) for path in root.glob("*") if (match := pattern.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def resumable_runs(root: Path, name: str) -> list[Path]:
    """Return those of :func:`run_folders` that hold a checkpoint."""
    return [folder for folder in run_folders(root, name) if (folder / CHECKPOINT).is_file()]


def append_history(folder: Path, record: dict[str, Any]) -> None:
    """Add a record to a run's history, or raise an OSError and leave the history as it was."""
    file = folder / HISTORY
    with naming(file), file.open("ab", buffering=0) as stream:
        size, line = stream.tell(), (json.dumps(record) + "\n").encode()
        try:
            if (written := stream.write(line)) < len(line):  # the disk is full, which the next byte is told
                stream.write(line[written:])
        except OSError:
            stream.truncate(size)
            raise


class SearchRecord(BaseModel):
    """What a record of a search's history must hold for those who read it; others are of any kind."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, float | dict[str, float]]
    epoch: int
    step: int
    seconds: float
    alpha: dict[str, list[float]]
    beta: dict[str, list[float]]
    loss: dict[str, float]
    genotype: dict[str, str | dict[str, str | list[str]]]
    truth: dict[str, dict[str, float]] = {}
    budget: dict[str, dict[str, float]] = {}
    stopped: str = ""


def read_history(folder: Path, choices: Choices | None = None) -> list[dict[str, Any]]:
    """Return the records of a run's history, without a last line cut off by a kill; a UserError if it is missing or damaged.

    With the choices of a search its records are checked as a :class:`SearchRecord` of them.
    """
    file = folder / HISTORY
    if not file.is_file():
        raise UserError(f"{folder} holds no {HISTORY}: is it the folder of a run?")
    lines = file.read_bytes().split(b"\n")
    return [_record(line, f"{file}, record {number}", choices) for number, line in enumerate(lines[:-1], start=1)]


def _record(line: bytes, where: str, choices: Choices | None) -> dict[str, Any]:
    record = parse_json(line, where)
    try:
        if not isinstance(record, dict):
            raise ValueError(f"it is {shortened(record)} and not a mapping")
        if choices is not None:
            checked = SearchRecord.model_validate(record)
            sizes = {label: len(choice.candidates) for label, choice in choices.items()}
            if any(sizes != {label: len(values) for label, values in kind.items()} for kind in (checked.alpha, checked.beta)):
                raise ValueError("its alpha or beta is not of the search's choices")
    except ValueError as error:
        address = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else ""
        reason = f"{address} is missing or of another kind" if address else error
        raise UserError(f"{where} is damaged: {reason}.") from error
    return record


def cut_history(folder: Path, last: int, due: Sequence[int], key: str = "step") -> None:
    """Drop the records after step ``last``: a run that resumes there writes them again.

    Raises:
        UserError: the rest is not one record for each of the ``due`` steps up to ``last``, in their order.
    """
    file, due = folder / HISTORY, [step for step in due if step <= last]
    records = read_history(folder) if file.is_file() else []
    if any(type(record.get(key)) is not int for record in records):
        raise UserError(f"{file} is damaged: a record has no whole number '{key}'.")
    records = [record for record in records if record[key] <= last]
    for number, (record, step) in enumerate(itertools.zip_longest(records, due), start=1):
        if record is None or record[key] != step:
            raise UserError(
                f"{file} is missing or damaged: record {number} should be {'none' if step is None else f'that of {key} {step}'}, "
                f"as the checkpoint is of {last}. Put back the file, or start a new run without --auto_resume."
            )
    if file.is_file():
        write_text(file, "".join(json.dumps(record) + "\n" for record in records))


def provenance(seed: int, device: torch.device) -> dict[str, Any]:
    """Return what identifies a run, JSON-ready; versions of packages that are not installed are ``None``."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "processes": world_size(),
        "sr_nas": sr_nas.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """Return the git revision of the code, with ``+changes`` where tracked files differ from it; ``None`` without a checkout."""
    root = Path(sr_nas.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` together with the states of this process's random generators (CPU, and CUDA where there is one)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    write_torch(path, {**state, "random": {"cpu": torch.get_rng_state(), "cuda": cuda}})


def write_torch(path: Path, content: dict[str, Any]) -> None:
    """Write a file of ``torch.save``, all or nothing; an OSError where that cannot be."""
    buffer = BytesIO()
    torch.save(content, buffer)  # to a disk that is full it would only say "unexpected pos"
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint to ``device`` and restore the states of the random generators; a UserError if it is none or damaged."""
    state = load_tensors(path, device)
    random = state.pop("random", None)
    if random is None:
        raise UserError(f"{path} is no checkpoint of a run: it holds {', '.join(map(str, list(state)[:8]))}.")
    with restoring(path):
        torch.set_rng_state(random["cpu"].cpu())
        if torch.cuda.is_available() and random["cuda"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in random["cuda"][: torch.cuda.device_count()]])
    return state


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn what goes wrong while the state in a checkpoint is given back into a UserError that names the checkpoint."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # whatever misses its part
        if is_out_of_memory(error):
            raise
        raise UserError(f"{path} is not of this run ({type(error).__name__}: {first_line(error)}).") from error


def count_of(value: Any, most: int | None = None) -> int:
    """Return a number of steps that a file of a run holds; a ValueError where it is none, or more than ``most``."""
    if type(value) is not int or value < 0 or (most is not None and value > most):
        raise ValueError(f"{shortened(value)} is no number of steps" + (f" up to {most}" if most is not None else ""))
    return value


def _is_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list) and all(map(_is_tensors, value)))


def check_kinds(state: Any, fresh: Any, name: str = "state") -> None:
    """Compare a checkpoint's state with that of a new run, value by value; a ValueError where one is missing or of another kind.

    Tensors are of one kind if they have one shape and type. What is ``None`` in a new run may be a number, what is empty may hold
    numbers, and an optimizer's state tensors and lists of them too. Names that begin with ``_``, flags and the state of a
    gradient scaler may be missing: they depend on PyTorch's version and on the device.
    """
    if isinstance(fresh, Mapping):
        right = isinstance(state, Mapping)
        if right and not (name.endswith(".scaler") and not state):
            filled: dict[Any, Any] = dict.fromkeys(state, {} if name.endswith("optimizer.state") else 0.0)
            for key, value in (fresh or filled).items():
                if key in state:
                    check_kinds(state[key], value, f"{name}.{key}")
                elif not (str(key).startswith("_") or isinstance(value, bool | None)):
                    raise ValueError(f"{name} has no {key}")
    elif isinstance(fresh, list | tuple):
        right = type(state) is type(fresh) and len(state) == (len(fresh) or len(state))
        for place, value in enumerate(state if right else ()):
            check_kinds(value, fresh[place] if fresh else 0.0, f"{name}.{place}")
    elif isinstance(fresh, Tensor):
        right = isinstance(state, Tensor) and (state.shape, state.dtype) == (fresh.shape, fresh.dtype)
    elif isinstance(fresh, bool) or (fresh is None and "param_groups" in name):
        right = isinstance(state, bool | None)
    elif isinstance(fresh, float | None):
        right = state is fresh or (type(state) in (int, float) and state == state)  # NaN is none
        right |= "optimizer.state." in name and _is_tensors(state)
    else:
        right = type(state) is type(fresh) and not (isinstance(fresh, int) and state < min(fresh, 0))
    if not right:
        text = f"a tensor {list(state.shape)}, {state.dtype}" if isinstance(state, Tensor) else shortened(state)
        raise ValueError(f"{name} is {text}, in a new run it is {shortened(fresh)}")


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a mapping of names to tensors with ``weights_only=True``: a file that would need to run code is refused.

    Raises:
        UserError: the file is missing, damaged, refused, or holds no mapping.
    """
    expected = ["A checkpoint of a run is expected."] * (path.name == CHECKPOINT)
    if (kind := kind_of(path, *expected)) != "torch":
        raise UserError(f"{path} is no PyTorch file of tensors: its content is {kind}.")
    try:
        with path.open("rb") as stream, warnings.catch_warnings():  # by a name, PyTorch would look at the suffix
            warnings.simplefilter("ignore")
            loaded = torch.load(stream, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets in a damaged file
        if is_out_of_memory(error):
            raise
        if foreign := re.search(r"GLOBAL ([\w.]+)|function <(?:built-in )?(?:function|class|method) '?([\w.]+)", str(error)):
            raise UserError(
                f"{path} was refused: it holds {foreign[1] or foreign[2]}, and reading that could run code of its author's. Only "
                "tensors and plain values are read, such as the state_dict() of a network."
            ) from error
        # PyTorch's text may advise to read the file without this safety; the reason stands at its end.
        why = first_line(Exception(str(error).split("WeightsUnpickler error: ")[-1] or type(error).__name__))
        raise UserError(f"{path} cannot be read as a PyTorch file, and is damaged or of another kind: {why}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a mapping of names to tensors.")
    return loaded


def first_non_finite(module: nn.Module) -> str | None:
    """Return the name of a parameter or buffer that is not finite, or ``None`` where all are."""
    return next((name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()), None)


def refuse_non_finite(module: nn.Module, advice: str) -> None:
    """Raise UserError with advice where a tensor of the module is not finite, before it replaces a good one on disk."""
    if name := first_non_finite(module):
        raise UserError(f"{name} is no longer finite: the run has diverged. {advice} The last checkpoint is from before.")
