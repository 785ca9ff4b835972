"""Taking a result out of its run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sr_nas.errors import UserError
from sr_nas.export.model import LAST, trained_file
from sr_nas.export.network_file import load_network, read_metadata
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
    if output.suffix not in (".safetensors", ".json"):
        raise UserError(f"--output: {output} must end in .safetensors (a network) or .json (a genotype).")
    if output.exists() and not overwrite:
        raise UserError(f"--output: {output} exists. Choose another name, or replace it with --overwrite.")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".json":
        genotype = read_genotype(run) if (run / "genotype.json").is_file() else load_network(trained_file(run)).genotype.to_json()
        write_json(output, genotype)
        return [f"{output}: {json.dumps(genotype)}"]
    source = run / LAST if last else trained_file(run)
    network = load_network(source)
    with replacing(output) as temporary:
        shutil.copyfile(source, temporary)
    metadata = read_metadata(output)
    return [
        f"{output}: {network.genotype} x{network.scale}, {output.stat().st_size / 1e6:.2f} MB",
        f"trained: {metadata['training']}",
    ]
