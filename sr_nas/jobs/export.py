"""Taking a result out of its run folder, and released weights out of their files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.model import LAST, load_model, trained_file
from sr_nas.export.network_file import load_network, read_metadata, save_network
from sr_nas.genotype import read_genotype
from sr_nas.runs.files import replacing, write_json


def export_run(run: Path, output: Path, last: bool = False, overwrite: bool = False) -> list[str]:
    """Write the network of a training, or the genotype of a training or search, to a file of its own.

    Args:
        run: folder of a training or, for a genotype, of a search.
        output: ``.safetensors`` for the network, ``.json`` for the genotype alone.
        last: the last network instead of the best.
        overwrite: replace an existing file.

    Returns:
        Lines that say what was written.

    Raises:
        UserError: the run does not hold it, the file exists, or its ending says neither.
    """
    if not run.is_dir():
        raise UserError(f"--run: the folder {run} does not exist.")
    _make_way(output, overwrite)
    if output.suffix == ".json":
        genotype = read_genotype(run) if (run / "genotype.json").is_file() else load_network(trained_file(run)).genotype.to_json()
        write_json(output, genotype)
        return [f"{output}: {json.dumps(genotype)}"]
    source = run / LAST if last else trained_file(run)
    network = load_network(source)
    with replacing(output) as temporary:
        shutil.copyfile(source, temporary)
    return [_described(output, network), f"trained: {read_metadata(output)['training']}"]


def export_released(weights: Path, arch: str | None, genotype: str | None, output: Path, overwrite: bool = False) -> list[str]:
    """Write released weights as a file that describes itself, so that neither ``arch`` nor ``genotype`` is asked for again.

    Args:
        weights: ``.pth`` or ``.pt`` file.
        arch: see :func:`sr_nas.export.model.load_model`; so is ``genotype``.
        genotype: of weights that do not tell it.
        output: ``.safetensors`` for the network, ``.json`` for its genotype alone.
        overwrite: replace an existing file.

    Returns:
        A line that says what was written.

    Raises:
        UserError: no such weights, the file exists, or its ending says neither.
    """
    if weights.suffix not in (".pth", ".pt"):
        raise UserError(f"--model: {weights} is no file of released weights (.pth, .pt); a run is exported with --run.")
    _make_way(output, overwrite)
    network = load_model(weights, arch, genotype)
    if output.suffix == ".json":
        write_json(output, network.genotype.to_json())
        return [f"{output}: {json.dumps(network.genotype.to_json())}"]
    save_network(output, network, {"released": weights.name})
    return [_described(output, network)]


def _make_way(output: Path, overwrite: bool) -> None:
    if output.suffix not in (".safetensors", ".json"):
        raise UserError(f"--output: {output} must end in .safetensors (a network) or .json (a genotype).")
    if output.exists() and not overwrite:
        raise UserError(f"--output: {output} exists. Choose another name, or replace it with --overwrite.")
    output.parent.mkdir(parents=True, exist_ok=True)


def _described(output: Path, network: SRNetwork) -> str:
    return f"{output}: {network.genotype} x{network.scale}, {output.stat().st_size / 1e6:.2f} MB"
