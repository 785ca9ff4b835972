"""BasicSR's option files in our words, for those of its keys that differ from ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sr_nas.errors import UserError, listing

MARK = "model_type"
"""The key that every option file of BasicSR has, and none of ours."""

_OWN = ("IMDN", "DLSR")
# What BasicSR needs to know and we do not: without effect on what is learned, so they go without a word.
_SILENT = {
    "": ("dist_params", "find_unused_parameters"),
    "datasets": (
        "use_shuffle",
        "prefetch_mode",
        "num_prefetch_queue",
        "pin_memory",
        "dataset_enlarge_ratio",
        "io_backend",
        "phase",
    ),
    "path": ("resume_state",),
    "val": ("pbar", "suffix", "metrics", "save_img"),
    "logger": ("wandb",),
}
_SCHEDULES = {"MultiStepLR": "MultiStepRestartLR", "TrueCosineAnnealingLR": "CosineAnnealingLR"}


def is_basicsr(raw: dict[str, Any]) -> bool:
    """Whether options are those of a BasicSR file."""
    return MARK in raw


def from_basicsr(raw: dict[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the options of a BasicSR training in our words, and lines on what is different here.

    Keys that both know pass through, and so do those that neither knows: checking comes after.

    Args:
        raw: as read from the file.
        path: the file, for messages.

    Raises:
        UserError: something that BasicSR does and we do not, such as a GAN.
    """
    options, notes = {key: value for key, value in raw.items() if key not in (MARK, *_SILENT[""])}, list[str]()

    def section(*keys: str) -> dict[str, Any]:
        found: Any = options
        for key in keys:
            found = found.get(key)
            if not isinstance(found, dict):
                return {}
        return dict(found)

    def refuse(where: str, why: str) -> UserError:
        return UserError(f"{path}, an option file of BasicSR: {where}: {why}")

    if raw[MARK] != "SRModel":
        raise refuse(MARK, f"{raw[MARK]} cannot be trained here, only SRModel: one network with a pixel loss.")
    if isinstance(options.get("num_gpu"), int) and options["num_gpu"] > 1:
        notes.append(f"num_gpu {options['num_gpu']}: start as many processes with torchrun --nproc_per_node")
        options["num_gpu"] = "auto"
    scale = options.get("scale")
    datasets = section("datasets")
    if datasets:
        options["datasets"] = {key: _dataset(key, value, scale, notes, refuse) for key, value in datasets.items()}
    network = section("network_g")
    if network:
        options["network_g"] = _network(network, scale, refuse)
    train = section("train")
    if train:
        options["train"] = _train(train, refuse)
    if section("path").get("resume_state"):
        raise refuse("path.resume_state", "a run of BasicSR cannot go on here; start from its weights with pretrain_network_g.")
    if section("path").get("pretrain_network_g") and not section("path").get("param_key_g"):
        notes.append("path.param_key_g is not given: of params_ema and params the former is taken, by BasicSR the latter")
    metrics = section("val", "metrics")
    for name, metric in metrics.items():
        if isinstance(metric, dict) and (metric.get("crop_border", scale) != scale or metric.get("test_y_channel") is not True):
            notes.append(f"val.metrics.{name}: measured by the field's protocol instead, on Y with {scale} pixels shaved")
    if section("val").get("save_img"):
        notes.append("val.save_img has no effect here: tools/evaluate.py --save_images keeps images")
    for key in ("path", "val", "logger"):
        if section(key):
            options[key] = {name: value for name, value in section(key).items() if name not in _SILENT[key]}
    return {key: value for key, value in options.items() if value is not None}, notes


Refuse = Callable[[str, str], UserError]


def _dataset(key: str, section: Any, scale: Any, notes: list[str], refuse: Refuse) -> Any:
    if not isinstance(section, dict):
        return section
    if section.get("type") != "PairedImageDataset":
        raise refuse(f"datasets.{key}.type", f"{section.get('type')} cannot be read here, only PairedImageDataset.")
    for name in ("mean", "std", "color"):
        if section.get(name) is not None:
            raise refuse(f"datasets.{key}.{name}", "networks take RGB in 0..1 here.")
    dropped = (*_SILENT["datasets"], "type", "meta_info_file", "mean", "std", "color", "scale")
    kept = {name: value for name, value in section.items() if name not in dropped}
    how = section.get("io_backend") or {}
    backend = how.get("type", "disk") if isinstance(how, dict) else how
    if backend not in ("disk", "lmdb"):
        raise refuse(f"datasets.{key}.io_backend.type", f"{backend} cannot be read here, only disk and lmdb.")
    if section.get("meta_info_file") is not None and backend == "disk":
        notes.append(f"datasets.{key}.meta_info_file has no effect here: all images of the folder are read")
    if backend == "lmdb":
        kept.pop("filename_tmpl", None)
    return {"type": "lmdb" if backend == "lmdb" else "folder"} | kept


def _network(section: dict[str, Any], scale: Any, refuse: Refuse) -> dict[str, Any]:
    for word in ("upscale", "scale"):
        if section.get(word, scale) != scale:
            raise refuse(f"network_g.{word}", f"it is {section[word]}, and the scale of the file is {scale}.")
    kept = {name: value for name, value in section.items() if name not in ("upscale", "scale")}
    if kept.get("type") is not None and kept["type"] not in _OWN:
        kept["type"] = f"basicsr.{kept['type']}"
    return kept


def _train(section: dict[str, Any], refuse: Refuse) -> dict[str, Any]:
    other = [name for name in section if name.endswith("_opt") and name != "pixel_opt" and section[name] is not None]
    if other:
        raise refuse(f"train.{other[0]}", f"only a pixel loss trains here, not {listing(other)}.")
    kept = {name: value for name, value in section.items() if not name.endswith("_opt") or name == "pixel_opt"}
    loss = kept.get("pixel_opt")
    if isinstance(loss, dict):
        if loss.get("reduction", "mean") != "mean":
            raise refuse("train.pixel_opt.reduction", f"losses are means here, not {loss['reduction']}.")
        kept["pixel_opt"] = {name: value for name, value in loss.items() if name != "reduction"}
    schedule = kept.get("scheduler")
    if isinstance(schedule, dict) and isinstance(schedule.get("type"), str):
        schedule = dict(schedule, type=_SCHEDULES.get(schedule["type"], schedule["type"]))
        if schedule["type"] == "CosineAnnealingLR" and schedule.pop("T_max", kept.get("total_iter")) != kept.get("total_iter"):
            raise refuse("train.scheduler.T_max", "the cosine spans the whole training here: make it total_iter.")
        if schedule["type"] == "MultiStepRestartLR":
            schedule.setdefault("gamma", 0.1)
        kept["scheduler"] = schedule
    kept.setdefault("ema_decay", 0)
    return kept
