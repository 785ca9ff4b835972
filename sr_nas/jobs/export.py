"""Taking a result out of its run folder, and networks from one kind of file into another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing
from sr_nas.export.graph_file import OPSET, save_onnx, save_program
from sr_nas.export.model import LAST, load_model, model_metadata, trained_file
from sr_nas.export.network_file import load_network, read_metadata, save_network
from sr_nas.export.pth_file import save_pth
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


@dataclass(frozen=True)
class Writing:
    """How a file is written.

    Attributes:
        output: where; its ending is one of :data:`SUFFIXES`.
        overwrite: replace it, and its model card, if they exist.
        opset: of ONNX; ``None`` for the default.
        half: ONNX that computes in float16.
        card: write the model card beside it.
        license_name: for the card.
    """

    output: Path
    overwrite: bool = False
    opset: int | None = None
    half: bool = False
    card: bool = True
    license_name: str | None = None


def export_run(run: Path, how: Writing, last: bool = False) -> list[str]:
    """Write the network of a training, or the genotype of a training or search, to a file of its own.

    Args:
        run: folder of a training or, for a genotype, of a search.
        how: where and how it is written.
        last: the last network instead of the best.

    Returns:
        Lines that say what was written.

    Raises:
        UserError: the run does not hold it, the file exists, its ending is none of :data:`SUFFIXES`, or it would not give what
            the network gives.
    """
    if not run.is_dir():
        raise UserError(f"--run: the folder {run} does not exist.")
    _make_way(how)
    if how.output.suffix == ".json":
        genotype = read_genotype(run) if (run / "genotype.json").is_file() else load_network(trained_file(run)).genotype.to_json()
        write_json(how.output, genotype)
        return [f"{how.output}: {json.dumps(genotype)}"]
    source = run / LAST if last else trained_file(run)
    training = json.loads(read_metadata(source)["training"])
    return [*_write(load_network(source), training, how, _options(run)), f"trained: {json.dumps(training)}"]


def export_model(source: Path, arch: str | None, genotype: str | None, how: Writing) -> list[str]:
    """Write the network of a file as another kind of file, which names its architecture and genotype itself.

    Args:
        source: released weights, or an exported ``.safetensors`` or ``.pth`` file.
        arch: see :func:`sr_nas.export.model.load_model`; so is ``genotype``.
        genotype: of weights that do not tell it.
        how: where and how it is written.

    Returns:
        Lines that say what was written.

    Raises:
        UserError: no such file, and as :func:`export_run`.
    """
    if source.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(
            f"--model: {source} holds no weights that can be taken out (.safetensors, .pth, .pt); a run is exported with --run."
        )
    _make_way(how)
    network = load_model(source, arch, genotype)
    if how.output.suffix == ".json":
        write_json(how.output, network.genotype.to_json())
        return [f"{how.output}: {json.dumps(network.genotype.to_json())}"]
    metadata = model_metadata(source)
    return _write(network, json.loads(metadata["training"]) if metadata else {"released": source.name}, how, None)


def _make_way(how: Writing) -> None:
    output = how.output
    if output.suffix not in SUFFIXES:
        kinds = listing(f"{suffix} ({what})" for suffix, what in SUFFIXES.items())
        raise UserError(f"--output: {output} must end in one of {kinds}.")
    if output.suffix != ".onnx" and (how.half or how.opset is not None):
        raise UserError(f"--{'fp16' if how.half else 'opset'} is for ONNX, and {output} is none.")
    if output.exists() and not how.overwrite:
        raise UserError(f"--output: {output} exists. Choose another name, or replace it with --overwrite.")
    output.parent.mkdir(parents=True, exist_ok=True)


def _write(network: SRNetwork, training: dict[str, Any], how: Writing, options: dict[str, Any] | None) -> list[str]:
    output, said = how.output, []
    if output.suffix == ".onnx":
        said.append(save_onnx(output, network, training, how.opset or OPSET, how.half))
    elif output.suffix == ".pt2":
        said.append(save_program(output, network, training))
    else:
        (save_pth if output.suffix == ".pth" else save_network)(output, network, training)
    lines = [f"{output}: {network.genotype} x{network.scale}, {output.stat().st_size / 1e6:.2f} MB", *said]
    card = output.with_suffix(".md")
    if how.card and card.exists() and not how.overwrite:
        lines.append(f"{card} was there already and is kept; --overwrite replaces it")
    elif how.card:
        write_text(card, model_card(output.name, network, training, options, how.license_name))
        lines.append(f"{card}: its model card")
    return lines


def _options(run: Path) -> dict[str, Any] | None:
    try:
        found = yaml.safe_load((run / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        # A network outlives the options of its run; the card then has what the network's file says.
        return None
    return found if isinstance(found, dict) else None
