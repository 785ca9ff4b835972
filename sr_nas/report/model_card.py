"""The model card beside an exported network: Markdown of what its file and its run know, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sr_nas.complexity.macs import complexity
from sr_nas.contracts import SRNetwork
from sr_nas.genotype import Genotype
from sr_nas.metrics import PROTOCOL

NOT_STATED = "not stated"
# (what, path in a training's options): the schedule, in the order of the card.
SCHEDULE = (
    ("training data", "datasets.train.name"),
    ("kind of data set", "datasets.train.type"),
    ("HR patch", "datasets.train.gt_size"),
    ("batch", "datasets.train.batch_size_per_gpu"),
    ("flips", "datasets.train.use_hflip"),
    ("rotations", "datasets.train.use_rot"),
    ("iterations", "train.total_iter"),
    ("optimizer", "train.optim_g"),
    ("learning rate schedule", "train.scheduler"),
    ("loss", "train.pixel_opt"),
    ("gradient clipping", "train.grad_clip_norm"),
    ("moving average of the weights", "train.ema_decay"),
    ("precision", "train.precision"),
    ("seed", "manual_seed"),
)
CALLS = {
    ".onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(sr,) = session.run(["sr"], {{"lr": lr}})  # NumPy arrays, float32""",
    ".pt2": """import torch

network = torch.export.load("{file}").module()
sr = network(lr)""",
}
OURS = """from sr_nas.export.model import load_model

network = load_model("{file}")
sr = network(lr)"""


def model_card(
    file: str, network: SRNetwork, training: Mapping[str, Any], options: Mapping[str, Any] | None, license_name: str | None
) -> str:
    """Return the card of an exported file.

    Args:
        file: name of the exported file.
        network: what it holds, its layers open to counting.
        training: summary of its training, as the file's metadata have it; of released weights their file's name.
        options: options of its run, where it comes from one.
        license_name: as its author gives it.
    """
    cost = complexity(network)
    suffix = "." + file.rpartition(".")[2]
    settings = [(key, json.dumps(value)) for key, value in network.settings().items() if key not in ("scale", "genotype")]
    call = CALLS.get(suffix, OURS).format(file=file)
    parts = [
        f"# {file.rpartition('.')[0]}",
        f"{network.arch}, super-resolution by {network.scale}. It takes RGB in 0..1, `[N, 3, H, W]`, and gives "
        f"`[N, 3, {network.scale}H, {network.scale}W]`.",
        _table(
            ("", ""),
            [
                ("architecture", network.arch),
                ("scale", network.scale),
                *settings,
                ("parameters", f"{cost['params']:,}"),
                ("multiply-adds, HR output 1280x720", f"{cost['macs_hr_1280x720'] / 1e9:.2f} G"),
                ("multiply-adds, LR input 1280x720", f"{cost['macs_lr_1280x720'] / 1e9:.2f} G"),
                ("license", license_name or NOT_STATED),
            ],
        ),
        # A network of others has nothing that a search chose.
        *(
            ("## Genotype", f"`{network.genotype}`", f"```mermaid\n{draw(network.genotype)}\n```")
            if network.genotype.picks
            else ()
        ),
        "## Training",
        *_training(training, options),
        "## Validation",
        *_validation(training, options),
        f"## Use of `{file}`",
        f"```python\n{call}\n```",
        f"```sh\nsr-nas inference --model {file} -i photo.png -o upscaled\n```",
    ]
    return "\n\n".join(parts) + "\n"


def draw(genotype: Genotype) -> str:
    """Return a Mermaid flowchart of a genotype: the chain of its operations, and which cells feed which."""
    lines = ["flowchart LR"]
    # Who joins cells is named inputs3, inputs4, ... after the cell that reads them.
    joins = {label: names for label, names in genotype.picks if label.startswith("inputs")}
    operations = [(label, names) for label, names in genotype.picks if label not in joins]
    lines += [f'  subgraph "every {"cell" if joins else "block"}"', "    direction LR", "    in([in])"]
    before = "in"
    for label, names in operations:
        lines.append(f'    {before} --> {label}["{label}: {", ".join(names)}"]')
        before = label
    lines += [f"    {before} --> out([out])", "  end"]
    if joins:
        lines += ['  subgraph "cells"', "    direction LR", "    cell1 --> cell2"]
        lines += [f"    {name} --> cell{label.removeprefix('inputs')}" for label, names in joins.items() for name in names]
        lines.append("  end")
    return "\n".join(lines)


def _training(training: Mapping[str, Any], options: Mapping[str, Any] | None) -> list[str]:
    if "released" in training:
        return [f"Weights released as `{training['released']}`. The file does not say how they were trained."]
    # The options of a run say more of its loss than the file does.
    covered = {"validation"} | ({"loss", "seed", "data"} if options is not None else set())
    rows = [(key, _text(value)) for key, value in training.items() if key not in covered]
    for what, path in SCHEDULE if options is not None else ():
        value: Any = options
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            rows.append((what, _text(value)))
    return [_table(("", ""), rows)] if rows else ["Not stated."]


def _validation(training: Mapping[str, Any], options: Mapping[str, Any] | None) -> list[str]:
    scores = training.get("validation") or {}
    if not scores:
        return ["Not measured in this file's training."]
    rows = [(name, f"{found['psnr']:.3f}", f"{found['ssim']:.4f}") for name, found in scores.items()]
    # A set may bring its own LR images: only the options tell.
    val = ((options or {}).get("datasets") or {}).get("val")
    made = PROTOCOL["lr"] if val and not val.get("dataroot_lq") else "the validation set's own images" if val else NOT_STATED
    protocol = PROTOCOL | {"lr": made}
    return [_table(("set", "PSNR, dB", "SSIM"), rows), "How the numbers are made:", _table(("", ""), list(protocol.items()))]


def _table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items() if inner is not None)
    return str(value)
