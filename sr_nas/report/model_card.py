"""Model card of an exported network: Markdown of what its file and its run record. What they do not record is not stated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sr_nas.complexity.costs import complexity
from sr_nas.contracts import SRNetwork
from sr_nas.metrics import PROTOCOL

NOT_STATED = "not stated"
# Options that make the schedule of a training; no paths of the machine that it ran on.
DATA_OPTIONS = ("name", "type", "gt_size", "batch_size_per_gpu", "use_hflip", "use_rot", "hardest_of")
TRAIN_OPTIONS = ("total_iter", "optim_g", "scheduler", "pixel_opt", "start", "grad_clip_norm", "ema_decay", "precision")
USAGE = {
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(sr,) = session.run(["sr"], {{"lr": lr}})  # NumPy arrays, float32""",
    "pt2": """import torch

network = torch.export.load("{file}").module()
sr = network(lr)""",
    "param": """import ncnn
net = ncnn.Net()
net.load_param("{file}")
net.load_model("{name}.bin")
extractor = net.create_extractor()
extractor.input("in0", ncnn.Mat(lr))  # a NumPy array, float32, [3, H, W]
_, sr = extractor.extract("out0")""",
}
USAGE_SR_NAS = """from sr_nas import load_network

network = load_network("{file}")
sr = network(lr)"""


def model_card(
    file: str,
    network: SRNetwork,
    training: Mapping[str, Any],
    options: Mapping[str, Any] | None,
    measured: Mapping[str, str] | None = None,
) -> str:
    """Return the card of the exported ``file``.

    ``training`` is the summary in the file's metadata, for released weights the name of their file; ``options`` are those of
    the training run, where there is one; ``measured`` is what an export has measured of the file.
    """
    cost = complexity(network)
    name, _, suffix = file.rpartition(".")
    facts: dict[str, Any] = {"architecture": network.arch, "scale": network.scale}
    facts |= {key: json.dumps(value) for key, value in network.settings().items() if key not in ("scale", "genotype")}
    facts["parameters"] = f"{cost['params']:,}"
    facts["multiply-adds, HR output 1280x720"] = f"{cost['macs_hr_1280x720'] / 1e9:.2f} G"
    facts["multiply-adds, LR input 1280x720"] = f"{cost['macs_lr_1280x720'] / 1e9:.2f} G"
    figures, machine = training.get("figures", {}), training.get("figures", {}).get("machine", {})
    if "latency_ms" in figures:
        where = f"{machine['host']}, threads: {machine['threads']}" if machine["device"] == "cpu" else machine["device"]
        facts["time, HR output 1280x720"] = f"{figures['latency_ms']:.1f} ms ({where})"
    facts |= measured or {}
    facts["license"] = training.get("license") or NOT_STATED
    parts = [
        f"# {name}",
        f"{network.arch}, super-resolution by {network.scale}. It takes RGB in 0..1, `[N, 3, H, W]`, and gives "
        f"`[N, 3, {network.scale}H, {network.scale}W]`.",
        _table(("", ""), facts.items()),
    ]
    if network.genotype.picks:  # networks of other projects have none
        parts += ["## Genotype", f"`{network.genotype}`"]
    parts += ["## Training", *remarks(training, options), *branches(training), _training(training, options)]
    if sets := figures.get("sets"):
        parts += ["## Evaluation", _evaluation(sets)]
    parts += ["## Validation", *_validation(training, options)]
    parts += [f"## Use of `{file}`", f"```python\n{USAGE.get(suffix.lower(), USAGE_SR_NAS).format(file=file, name=name)}\n```"]
    parts += [] if suffix.lower() == "param" else [f"```sh\nsr-nas inference --model {file} -i photo.png -o upscaled\n```"]
    return "\n\n".join(parts) + "\n"


def remarks(training: Mapping[str, Any], options: Mapping[str, Any] | None) -> list[str]:
    """Return sentences on a network that is not of the end of its training, or that is worse than bicubic upscaling.

    The arguments are those of :func:`model_card`. The best network of a training that has ended may be of any iteration.
    """
    total = training.get("total_iter") or ((options or {}).get("train") or {}).get("total_iter")
    iteration, done, lines = training.get("iteration"), training.get("iterations_done"), []
    if total and iteration is not None and max(iteration, done or 0) < total:
        state = "its training has not ended" if done else "whether its training has ended is not known"
        lines.append(f"It is of iteration {iteration} of {total}; {state}.")
    for name, bicubic in (training.get("bicubic") or {}).items():
        if (score := training["validation"][name]["psnr"]) < bicubic:
            lines.append(f"It is below bicubic upscaling on {name}: {score:.3f} dB and {bicubic:.3f} dB.")
    return lines


def branches(training: Mapping[str, Any]) -> list[str]:
    """Return a sentence on a network that was trained with ``train.reparam``; else nothing."""
    kind = training.get("reparam")
    return [f"Its 3x3 convolutions were trained as the branches of {kind}; in the file each is one convolution."] if kind else []


def _training(training: Mapping[str, Any], options: Mapping[str, Any] | None) -> str:
    if "released" in training:
        return f"Weights released as `{training['released']}`. The file does not say how they were trained."
    # The options tell more of these than the file does.
    covered = {"validation", "bicubic", "iterations_done", "reparam", "figures", "license"} | (
        {"loss", "seed", "data", "total_iter"} if options is not None else set()
    )
    rows = {key: value for key, value in training.items() if key not in covered}
    if options is not None:
        data, train = (options.get("datasets") or {}).get("train") or {}, options.get("train") or {}
        rows |= {f"datasets.train.{key}": data.get(key) for key in DATA_OPTIONS}
        rows |= {f"train.{key}": train.get(key) for key in TRAIN_OPTIONS}
        rows["manual_seed"] = options.get("manual_seed")
        if "begun_with" in training:
            del rows["train.start"]  # which the weights have replaced
    table = [(key, as_text(value)) for key, value in rows.items() if value is not None]
    return _table(("", ""), table) if table else "Not stated."


def _evaluation(sets: Mapping[str, Any]) -> str:
    rows = [
        (name, *(f"{of[key]:.{places}f}" for of in (own, own["bicubic"]) for key, places in (("psnr", 3), ("ssim", 4))))
        for name, own in sets.items()
    ]
    return _table(("set", "PSNR, dB", "SSIM", "bicubic, dB", "bicubic, SSIM"), rows)


def _validation(training: Mapping[str, Any], options: Mapping[str, Any] | None) -> list[str]:
    scores = training.get("validation")
    if not scores:
        return ["Not measured in this file's training."]
    rows = [(name, f"{means['psnr']:.3f}", f"{means['ssim']:.4f}") for name, means in scores.items()]
    # Only the options tell whether a validation set has LR images of its own.
    section = ((options or {}).get("datasets") or {}).get("val")
    lr = "the validation set's own images" if section and section.get("dataroot_lq") else PROTOCOL["lr"]
    protocol = PROTOCOL | {"lr": lr if section else NOT_STATED}
    return [_table(("set", "PSNR, dB", "SSIM"), rows), "How the numbers are made:", _table(("", ""), protocol.items())]


def _table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_text(value: Any) -> str:
    """Return a value of a record as words: a mapping as ``key value, key value``, without keys that have none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_text(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "; ".join(map(as_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
