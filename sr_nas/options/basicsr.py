"""Option files of BasicSR, translated where their keys or meanings differ from ours."""

from __future__ import annotations

from typing import Any

from sr_nas.errors import UserError, listing

MARK = "model_type"
"""The key that every option file of BasicSR has, and none of ours."""

_OUR_NETWORKS = ("IMDN", "DLSR")
# Keys without effect on what is learned; they are dropped silently.
_LOADING = ["use_shuffle", "prefetch_mode", "num_prefetch_queue", "pin_memory", "dataset_enlarge_ratio", "io_backend", "phase"]
_IGNORED = {"path": ("resume_state",), "val": ("pbar", "suffix", "metrics", "save_img")}
_SCHEDULES = {"MultiStepLR": "MultiStepRestartLR", "TrueCosineAnnealingLR": "CosineAnnealingLR"}


def from_basicsr(raw: dict[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Translate the options of a training in BasicSR into ours; return them, and notes on what is different here.

    Keys that both use pass through, and so do unknown ones: the result is checked later. ``path`` is for messages.

    Raises:
        UserError: something that has no equivalent here, such as a GAN.
    """
    notes: list[str] = []
    try:
        return _translate(raw, notes), notes
    except ValueError as error:
        raise UserError(f"{path}, an option file of BasicSR: {error}") from error


def _translate(raw: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    if raw[MARK] != "SRModel":
        raise ValueError(f"{MARK}: {raw[MARK]} cannot be trained here, only SRModel: one network with a pixel loss.")
    options = _without(raw, MARK, "dist_params", "find_unused_parameters")
    path, val, scale = _section(raw, "path"), _section(raw, "val"), raw.get("scale")
    if path.get("resume_state"):
        raise ValueError("path.resume_state: a run of BasicSR cannot go on here; start from its weights with pretrain_network_g.")
    if isinstance(raw.get("num_gpu"), int) and raw["num_gpu"] > 1:
        notes.append(f"num_gpu {raw['num_gpu']}: start as many processes with torchrun --nproc_per_node")
        options["num_gpu"] = "auto"
    for key, section in _section(raw, "datasets").items():
        options["datasets"] = {**options["datasets"], key: _dataset(f"datasets.{key}", section, notes)}
    if network := _section(raw, "network_g"):
        options["network_g"] = _network(network, scale)
    if train := _section(raw, "train"):
        options["train"] = _train(train)
    if path.get("pretrain_network_g") and not path.get("param_key_g"):
        notes.append("path.param_key_g is not given: of params_ema and params the former is taken, by BasicSR the latter")
    for name, metric in _section(val, "metrics").items():
        if not isinstance(metric, dict) or metric.get("type") not in ("calculate_psnr", "calculate_ssim"):
            notes.append(f"val.metrics.{name} is not measured here; PSNR and SSIM are")
        elif metric.get("crop_border", scale) != scale or metric.get("test_y_channel") is not True:
            notes.append(f"val.metrics.{name}: measured by the field's protocol instead, on Y with {scale} pixels shaved")
    if val.get("save_img"):
        notes.append("val.save_img has no effect here: tools/evaluate.py --save_images keeps images")
    for key, ignored in _IGNORED.items():
        if section := _section(raw, key):
            options[key] = _without(section, *ignored)
    return {key: value for key, value in options.items() if value is not None}


def _section(options: dict[str, Any], key: str) -> dict[str, Any]:
    # What else may stand there is refused later, when the options are checked.
    return section if isinstance(section := options.get(key), dict) else {}


def _without(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def _dataset(address: str, section: Any, notes: list[str]) -> Any:
    if not isinstance(section, dict):
        return section
    if section.get("type") != "PairedImageDataset":
        raise ValueError(f"{address}.type: {section.get('type')} cannot be read here, only PairedImageDataset.")
    for name in ("mean", "std", "color"):
        if section.get(name) is not None:
            raise ValueError(f"{address}.{name}: networks take RGB in 0..1 here.")
    storage = section.get("io_backend") or {}
    backend = storage.get("type", "disk") if isinstance(storage, dict) else storage
    if backend not in ("disk", "lmdb"):
        raise ValueError(f"{address}.io_backend.type: {backend} cannot be read here, only disk and lmdb.")
    if section.get("meta_info_file") is not None and backend == "disk":
        notes.append(f"{address}.meta_info_file has no effect here: all images of the folder are read")
    ours = _without(section, *_LOADING, "type", "meta_info_file", "mean", "std", "color", "scale")
    if backend == "lmdb":
        return {"type": "lmdb"} | _without(ours, "filename_tmpl")
    return {"type": "folder"} | ours


def _network(section: dict[str, Any], scale: Any) -> dict[str, Any]:
    for name in ("upscale", "scale"):
        if section.get(name, scale) != scale:
            raise ValueError(f"network_g.{name}: it is {section[name]}, and the scale of the file is {scale}.")
    ours = _without(section, "upscale", "scale")
    if ours.get("type") is not None and ours["type"] not in _OUR_NETWORKS:
        ours["type"] = f"basicsr.{ours['type']}"
    return ours


def _train(section: dict[str, Any]) -> dict[str, Any]:
    losses = [name for name in section if name.endswith("_opt") and name != "pixel_opt"]
    if others := [name for name in losses if section[name] is not None]:
        raise ValueError(f"train.{others[0]}: only a pixel loss trains here, not {listing(others)}.")
    ours = {"ema_decay": 0} | _without(section, *losses)
    if loss := _section(section, "pixel_opt"):
        if loss.get("reduction", "mean") != "mean":
            raise ValueError(f"train.pixel_opt.reduction: losses are means here, not {loss['reduction']}.")
        ours["pixel_opt"] = _without(loss, "reduction")
    schedule = _section(section, "scheduler")
    if isinstance(schedule.get("type"), str):
        schedule = schedule | {"type": _SCHEDULES.get(schedule["type"], schedule["type"])}
        length = section.get("total_iter")
        if schedule["type"] == "CosineAnnealingLR" and schedule.pop("T_max", length) != length:
            raise ValueError("train.scheduler.T_max: the cosine spans the whole training here: make it total_iter.")
        if schedule["type"] == "MultiStepRestartLR":
            schedule.setdefault("gamma", 0.1)
        ours["scheduler"] = schedule
    return ours
