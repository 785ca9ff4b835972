"""The command ``export``: a trained network as one file of any kind, with its model card; or a genotype."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from sr_nas.contracts import SRNetwork
from sr_nas.data.sources import benchmark_set, folder, sample
from sr_nas.errors import UserError, absent, listing, parse_json
from sr_nas.export.int8 import export_int8
from sr_nas.export.model import BEST, LAST, load_model, model_file, trained_file
from sr_nas.export.ncnn import export_ncnn
from sr_nas.export.network_file import describe_network, read_metadata, save_network
from sr_nas.genotype import read_genotype
from sr_nas.inference.optimize import countable
from sr_nas.options.load import read_yaml
from sr_nas.report.model_card import as_text, branches, model_card, remarks
from sr_nas.runs.files import replacing, write_json, write_text
from sr_nas.runs.run_dir import OPTIONS, count_of, read_history

MOST_LOST = 0.2
"""PSNR in dB that INT8 may lose, unless --max_loss says otherwise."""
SUFFIXES = {
    ".safetensors": "a network",
    ".pth": "a network for BasicSR",
    ".onnx": "ONNX",
    ".pt2": "a torch.export program",
    ".param": "ncnn",
    ".json": "a genotype",
}


def main(args: Namespace) -> int:
    """Run ``export``."""
    if args.model is not None and args.last:
        raise UserError("--last is for --run: a file holds one network.")
    if args.run is not None and (args.arch is not None or args.genotype is not None):
        raise UserError("--arch and --genotype are for --model: a run knows its own.")
    if args.run is not None and not args.run.is_dir():
        raise UserError(f"--run: the folder {args.run} {absent(args.run)}.")
    if args.model is not None and args.model.is_dir():
        raise UserError(f"--model: {args.model} is a folder; a run is exported with --run {args.model}.")
    _check_output(args.output, args)
    for line in (
        _write_genotype(args.output, args) if args.output.suffix.lower() == ".json" else _write_network(args.output, args)
    ):
        print(line)
    return 0


def _check_output(output: Path, args: Namespace) -> None:
    if output.suffix.lower() not in SUFFIXES:
        kinds = listing(f"{suffix} ({what})" for suffix, what in SUFFIXES.items())
        raise UserError(f"--output: {output} must end in one of {kinds}.")
    suffix = output.suffix.lower()
    if (args.fp16 and suffix not in (".safetensors", ".onnx", ".param")) or (args.int8 and suffix != ".onnx"):
        what = "--int8 is for .onnx" if args.int8 else "--fp16 is for .safetensors, .onnx and .param"
        raise UserError(f"{what}: leave it out, or give -o such an ending instead of {output}.")
    if given := [name for name in ("calibrate", "data", "max_loss") if not args.int8 and getattr(args, name) is not None]:
        raise UserError(f"--{given[0]} is for --int8.")
    for file in (output, output.with_suffix(".bin")) if suffix == ".param" else (output,):
        if file.exists() and not args.overwrite:
            raise UserError(f"--output: {file} exists. Choose another name, or replace it with --overwrite.")
    card = output.with_suffix(".md")
    if args.license and card.exists() and not (args.overwrite or args.no_card):
        raise UserError(f"--license: the model card {card} exists and would be kept without it. Replace it with --overwrite.")
    output.parent.mkdir(parents=True, exist_ok=True)


def _network(args: Namespace) -> tuple[SRNetwork, dict[str, Any]]:
    """Return the network to export and the summary of its training, with what only the folder of its run knows."""
    source = model_file(args.model) if args.model else args.run / LAST if args.last else trained_file(args.run)
    metadata = read_metadata(source)
    network = load_model(source, args.arch, args.genotype)
    if not metadata:
        return network, {"released": source.name}
    try:
        training = dict(json.loads(metadata["training"]))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{source} is damaged: its record of the training cannot be read.") from error
    if args.run is not None:
        with suppress(UserError, LookupError, ValueError):  # a network outlives the history of its run
            training["iterations_done"] = count_of(read_history(args.run)[-1]["iteration"])
    return network, training


def _write_genotype(output: Path, args: Namespace) -> list[str]:
    searched = args.run is not None and (args.run / "genotype.json").is_file()
    genotype = read_genotype(args.run) if searched else _network(args)[0].genotype.to_json()
    write_json(output, genotype)
    return [f"{output}: {json.dumps(genotype)}"]


def _write_network(output: Path, args: Namespace) -> list[str]:
    """Write the network's file and its model card; return lines that say what was written."""
    network, summary = _network(args)
    training = summary | ({"license": args.license} if args.license else {})
    training |= {"figures": _figures(args.scores, network)} if args.scores else {}
    options = None if args.run is None else _options(args.run)
    try:
        training |= _made_of(options or {})
    except (AttributeError, TypeError) as error:
        raise UserError(f"{args.run / OPTIONS} is damaged: {error}.") from error
    if args.fp16 and output.suffix.lower() == ".safetensors":
        training["weights"] = "rounded to float16"
    files: dict[Path, bytes] = {}
    measured: dict[str, str] = {}
    if args.int8:
        photos = folder([str(args.calibrate)], scale=network.scale) if args.calibrate else sample(scale=network.scale)
        judged = benchmark_set(args.data or Path("sample"), network.scale)[1]
        metadata = describe_network(network, training)
        most = MOST_LOST if args.max_loss is None else args.max_loss
        files[output], measured = export_int8(network, output.name, metadata, photos, judged, most)
    elif output.suffix.lower() == ".param":
        files[output], files[output.with_suffix(".bin")], measured["ncnn"] = export_ncnn(network, output.name, args.fp16)
    try:
        card = model_card(output.name, network, training, options, measured)
        warnings = remarks(training, options)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"the record of the training, in the model's file, is damaged: {error!r}.") from error
    with ExitStack() as together:
        for place, content in files.items():
            together.enter_context(replacing(place)).write_bytes(content)
    facts = [f"{name}: {fact}" for name, fact in measured.items()] or [save_network(output, network, training, args.fp16)]
    size = sum(place.stat().st_size for place in files or (output,)) / 1e6
    lines = [f"{output}: {network.genotype} x{network.scale}, {size:.2f} MB", *filter(None, facts)]
    lines += [f"trained: {as_text(summary)}"] if args.run is not None else []
    lines += branches(training)
    lines += [f"NOTE: {warning}" for warning in warnings]
    file = output.with_suffix(".md")
    if not args.no_card and file.exists() and not args.overwrite:
        lines.append(f"{file} was there already and is kept; --overwrite replaces it")
    elif not args.no_card:
        write_text(file, card)
        lines.append(f"{file}: its model card")
    return lines


def _figures(files: Sequence[Path], network: SRNetwork) -> dict[str, Any]:
    """Return what ``evaluate`` and ``complexity`` have measured of a network, from their JSON, in the words of the metadata.

    Raises:
        UserError: a file is of neither, or of another network as far as it says.
    """
    figures: dict[str, Any] = {}
    params = sum(parameter.numel() for parameter in countable(network).parameters())
    for file in files:
        content = parse_json(file.read_bytes(), file)
        try:
            if content.get("scale", network.scale) != network.scale or content.get("params", params) != params:
                raise UserError(f"--scores: {file} is of another network: one of another scale or number of parameters.")
            if "sets" in content:
                figures.setdefault("sets", {}).update(
                    {name: {key: one[key] for key in ("psnr", "ssim", "bicubic")} for name, one in content["sets"].items()}
                )
            else:
                figures |= {"params": params, "macs_hr_1280x720": content["macs_hr_1280x720"]}
                figures |= {key: content[key] for key in ("latency_ms", "machine") if key in content}
        except (AttributeError, LookupError, TypeError) as error:
            raise UserError(
                f"--scores: {file} is neither of tools/evaluate.py --model FILE --data ... --json nor of tools/complexity.py "
                f"--model FILE --latency --json ({error!r})."
            ) from error
    return figures


def _made_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a network's file states of its training's options: what made its LR images worse, and the weights it began with."""
    stated = {"degradation": ((options.get("datasets") or {}).get("train") or {}).get("degradation")}
    if file := (options.get("path") or {}).get("pretrain_network_g"):
        path = Path(file)  # in runs all files have one name; other folders are nobody's business
        stated["begun_with"] = f"{path.parent.name}/{path.name}" if path.name in (BEST, LAST) else path.name
    return {key: value for key, value in stated.items() if value}


def _options(run: Path) -> dict[str, Any] | None:
    """The options of a run; ``None`` where they were deleted, which a network outlives: its file tells the card enough."""
    return read_yaml(run / OPTIONS) if (run / OPTIONS).is_file() else None
