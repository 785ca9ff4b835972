"""Checkpoints of tensors and plain values: written all or nothing, and read without running code from the file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sr_nas.errors import UserError
from sr_nas.runs.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` together with the states of this process's random generators (CPU, and CUDA where there is one)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    with replacing(path) as temporary:
        torch.save({**state, "random": {"cpu": torch.get_rng_state(), "cuda": cuda}}, temporary)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint to ``device`` and restore the states of the random generators.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or holds more than tensors and plain values.
    """
    state = load_tensors(path, device)
    random = state.pop("random", None)
    if random is None:
        raise UserError(f"{path} is no checkpoint of a run: it holds {', '.join(map(str, list(state)[:8]))}.")
    torch.set_rng_state(random["cpu"].cpu())
    if torch.cuda.is_available() and random["cuda"]:
        torch.cuda.set_rng_state_all([state.cpu() for state in random["cuda"][: torch.cuda.device_count()]])
    return state


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a mapping of names to tensors with ``weights_only=True``: a file that would need to run code is refused.

    Raises:
        UserError: the file is missing, damaged, refused, or holds no mapping.
    """
    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it holds more than tensors and plain values, or is no PyTorch file. Only files that load "
            f"with weights_only=True are read. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a PyTorch file: {reason}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a mapping of names to tensors.")
    return loaded


def first_non_finite(module: nn.Module) -> str | None:
    """Return the name of a parameter or buffer that is not finite, or ``None`` where all are."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return name
    return None


def refuse_non_finite(module: nn.Module, advice: str) -> None:
    """Raise UserError with advice where a tensor of the module is not finite, before it replaces a good one on disk."""
    name = first_non_finite(module)
    if name is not None:
        raise UserError(f"{name} is no longer finite: the run has diverged. {advice} The last checkpoint is from before.")
