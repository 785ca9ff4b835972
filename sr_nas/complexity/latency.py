"""Tables of latency: what each candidate adds to the time of a network on one device, and how well that predicts networks."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sr_nas.contracts import Latency, SearchSpace
from sr_nas.errors import UserError
from sr_nas.genotype import WIDTH, Genotype

TRUSTED = 0.9
"""Spearman correlation of predicted and measured networks from which a table may decide a search."""


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: str) -> dict[str, Any]:
    """Return what a table was measured on, JSON-ready: processor, device, and versions of what runs networks."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    versions = {name: _version(name) for name in ("torch", "onnxruntime")}
    return {"host": processor(), "device": gpu or device, "python": platform.python_version(), **versions}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float, dict[str, float]]:
    """Fit ``measured = factor * predicted + offset``, and say how well that predicts a network that it was not fitted to.

    Returns:
        The factor, the offset, and ``mean_error`` and ``worst`` (relative), ``within_10_percent`` (a share) and ``spearman``,
        each network predicted by a fit to all others.
    """
    from scipy.stats import spearmanr  # a second to import, and nothing else of a search needs it

    x, y = np.asarray(predicted), np.asarray(measured)
    left_out = np.array([np.polyval(np.polyfit(np.delete(x, i), np.delete(y, i), 1), x[i]) for i in range(len(x))])
    errors: npt.NDArray[np.float64] = np.abs(left_out / y - 1)
    factor, offset = np.polyfit(x, y, 1)
    quality = {
        "mean_error": float(errors.mean()),
        "worst": float(errors.max()),
        "within_10_percent": float((errors <= 0.1).mean()),
        "spearman": float(spearmanr(x, y).statistic),
    }
    return float(factor), float(offset), quality


def read_latency(file: Path, space: SearchSpace, foreign: bool = False) -> Latency:
    """Read a table of ``tools/latency.py`` for a space.

    Raises:
        UserError: it is no such table, of another space, of another machine (unless ``foreign``), or does not predict networks.
    """
    advice = f"Measure one with tools/latency.py -o {file}."
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        machine, settings, quality = content["machine"], content["space"], content["check"]
        table = {label: _milliseconds(row) for label, row in content["candidates"].items()}
        fixed, spearman, device = float(content["fixed"]), float(quality["spearman"]), machine["device"]
        checked = [Genotype.from_json(row["genotype"]) for row in quality["networks"] if float(row["measured"]) > 0]
        if set(content["how"]) != {"engine", "size", "rounds", "clock"} or type(machine["threads"]) is not int:
            raise ValueError("it does not say how networks were timed")
        if not checked:
            raise ValueError("it has no networks that were timed")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"search.latency_table: {file} is no table of latencies ({error!r}). {advice}") from error
    if settings != settings_of(space):
        raise UserError(f"search.latency_table: {file} is of {settings}, and this search of {settings_of(space)}. {advice}")
    if not foreign and machine["host"] != processor():
        raise UserError(
            f"search.latency_table: {file} was measured on {machine['host']} ({device}), and this is {processor()}. {advice} "
            "Or set search.foreign_latency to true, to search for that machine."
        )
    choices = space.choices()
    widths = choices[WIDTH].candidates if WIDTH in choices else ()
    for label in space.cost_sites():
        row = table.get(label, {})
        rows = [row] if label == WIDTH or not widths else [row.get(width, {}) for width in widths]
        if all(isinstance(own, dict) and (set(own) >= set(choices[label].candidates)) for own in rows):
            continue
        raise UserError(f"search.latency_table: {file} lacks candidates of this space. {advice}")
    if spearman < TRUSTED:
        raise UserError(
            f"search.latency_table: {file} cannot be trusted: it orders measured networks with a Spearman correlation of "
            f"{spearman:.2f}, below {TRUSTED}. Bound macs_hr instead, or measure on an idle machine."
        )
    return Latency(fixed, table)


def _milliseconds(row: Any) -> Any:
    """Return numbers as float, at any depth."""
    return {str(name): _milliseconds(own) for name, own in row.items()} if isinstance(row, dict) else float(row)


def settings_of(space: Any) -> Mapping[str, Any]:
    """Return what a table depends on besides its candidates: the architecture and the sizes of its frame, JSON-ready."""
    return {"type": space.arch, **space.frame_settings()}
