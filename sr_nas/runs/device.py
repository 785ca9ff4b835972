"""Which device a run uses, and how much memory it took."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sr_nas.errors import UserError
from sr_nas.runs.distributed import launched, local_rank


def pick_device(num_gpu: int | str) -> torch.device:
    """``"auto"``: CUDA, else MPS, else CPU; ``0``: CPU; ``1``: one accelerator, which must exist.

    Of the processes that torchrun starts on a machine each gets a GPU of its own, which becomes its current one.

    Raises:
        UserError: ``1`` where PyTorch finds no accelerator, or fewer GPUs than torchrun has started processes.
    """
    if num_gpu == 0:
        return torch.device("cpu")
    if launched():
        return _own_gpu(num_gpu)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if num_gpu == "auto":
        return torch.device("cpu")
    raise UserError("num_gpu: 1 was asked for, but PyTorch finds neither a CUDA nor an MPS device. Set num_gpu to auto or 0.")


def device_named(name: str) -> torch.device:
    """``"cpu"`` or ``"cuda"``, as ``--device`` says.

    Raises:
        UserError: CUDA was asked for where PyTorch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise UserError(f"--device cuda: PyTorch finds no CUDA device. This one {built}. Use --device cpu, or see nvidia-smi.")
    return torch.device(name)


def _own_gpu(num_gpu: int | str) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank() < count:
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        return device
    if count == 0 and num_gpu == "auto":
        return torch.device("cpu")
    raise UserError(
        f"torchrun has started more processes than the {count} CUDA devices that PyTorch finds here. "
        "Start one for each with --nproc_per_node, or set num_gpu to 0."
    )


def peak_memory(device: torch.device) -> int | None:
    """Largest memory in bytes since the start: allocated on the GPU for CUDA, resident in this process elsewhere.

    Where :func:`reset_peak_memory` can, it counts from there. ``None`` on Windows without CUDA, where the
    standard library cannot tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> bool:
    """Let :func:`peak_memory` count from now on; return whether the system can: CUDA can, and Linux without it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        # 5 resets the peak of the resident set to its present size (proc(5), since Linux 4.0).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory does not suffice, of the device or of the machine."""
    # CUDA has an exception of its own; the CPU and MPS only a text.
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return known or any(text in str(error) for text in ("out of memory", "can't allocate memory", "not enough memory"))
