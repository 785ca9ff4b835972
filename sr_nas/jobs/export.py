"""The command ``export``: a trained network as one file of any kind, with its model card; or a genotype."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.export.model import LAST, load_model, trained_file
from sr_nas.export.network_file import load_network, read_metadata, save_network
from sr_nas.genotype import read_genotype
from sr_nas.report.model_card import model_card
from sr_nas.runs.files import write_json, write_text
from sr_nas.runs.run_dir import OPTIONS

SUFFIXES = {
    ".safetensors": "a network",
    ".pth": "a network for BasicSR",
    ".onnx": "ONNX",
    ".pt2": "a torch.export program",
    ".json": "a genotype",
}


def main(args: Namespace) -> int:
    """Run ``export``."""
    if args.model is not None and args.last:
        raise UserError("--last is for --run: a file holds one network.")
    if args.run is not None and (args.arch is not None or args.genotype is not None):
        raise UserError("--arch and --genotype are for --model: a run knows its own.")
    lines = _export_run(args) if args.run is not None else _export_model(args)
    print("\n".join(lines))
    return 0


def _export_run(args: Namespace) -> list[str]:
    run, output = args.run, args.output
    if not run.is_dir():
        raise UserError(f"--run: the folder {run} does not exist.")
    _check_output(args)
    if output.suffix == ".json":
        searched = (run / "genotype.json").is_file()
        return _write_genotype(output, read_genotype(run) if searched else load_network(trained_file(run)).genotype.to_json())
    source = run / LAST if args.last else trained_file(run)
    training = json.loads(read_metadata(source)["training"])
    return [*_write(load_network(source), training, args, _options(run)), f"trained: {json.dumps(training)}"]


def _export_model(args: Namespace) -> list[str]:
    source = args.model
    if source.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(
            f"--model: {source} holds no weights that can be taken out (.safetensors, .pth, .pt); a run is exported with --run."
        )
    _check_output(args)
    network = load_model(source, args.arch, args.genotype)
    if args.output.suffix == ".json":
        return _write_genotype(args.output, network.genotype.to_json())
    metadata = read_metadata(source)
    return _write(network, json.loads(metadata["training"]) if metadata else {"released": source.name}, args, None)


def _check_output(args: Namespace) -> None:
    output = args.output
    if output.suffix not in SUFFIXES:
        kinds = listing(f"{suffix} ({what})" for suffix, what in SUFFIXES.items())
        raise UserError(f"--output: {output} must end in one of {kinds}.")
    if output.suffix != ".onnx" and args.fp16:
        raise UserError(f"--fp16 is for ONNX, and {output} is none.")
    if output.exists() and not args.overwrite:
        raise UserError(f"--output: {output} exists. Choose another name, or replace it with --overwrite.")
    output.parent.mkdir(parents=True, exist_ok=True)


def _write_genotype(output: Path, genotype: Any) -> list[str]:
    write_json(output, genotype)
    return [f"{output}: {json.dumps(genotype)}"]


def _write(network: SRNetwork, training: dict[str, Any], args: Namespace, options: dict[str, Any] | None) -> list[str]:
    """Write the network's file and its model card; return lines that say what was written."""
    output = args.output
    checks = save_network(output, network, training, args.fp16)
    lines = [f"{output}: {network.genotype} x{network.scale}, {output.stat().st_size / 1e6:.2f} MB", *filter(None, [checks])]
    card = output.with_suffix(".md")
    if args.no_card:
        return lines
    if card.exists() and not args.overwrite:
        return [*lines, f"{card} was there already and is kept; --overwrite replaces it"]
    write_text(card, model_card(output.name, network, training, options, args.license))
    return [*lines, f"{card}: its model card"]


def _options(run: Path) -> dict[str, Any] | None:
    """The options of a run; ``None`` where they were deleted, which a network outlives: its file tells the card enough."""
    try:
        options = yaml.safe_load((run / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return options if isinstance(options, dict) else None
