"""The command ``complexity``: what one network costs layer by layer, or a table of several networks."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sr_nas import published
from sr_nas.classification.nats_bench import official_accuracy
from sr_nas.complexity.macs import complexity, footprint, per_layer
from sr_nas.contracts import Network, SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.model import build_by_name, load_structure
from sr_nas.options.load import OptionLoader
from sr_nas.report.progress import macs, truth
from sr_nas.task import complexity_of

LEGEND = """\
LR      multiply-adds (fvcore) for an LR input of 1280x720
HR      multiply-adds for an HR output of 1280x720
field   receptive field in LR pixels; all: the whole image. Of the paper's DLSR, which it prints without links,
        where each cell reads the two before it
memory  peak of activations for an HR output of 1280x720, single precision"""


def main(args: Namespace) -> int:
    """Run ``complexity``; ``args.settings`` are the words that no argument takes: settings of the network."""
    if args.arch is None and (args.settings or args.genotype is not None):
        first = (args.settings or ["--genotype"])[0]
        raise UserError(f"{first} describes a network that --arch names; --model and --compare take none.")
    if args.compare is not None:
        if args.official is not None:
            raise UserError("--official tells of one network, which --arch or --model names.")
        return _compare(args.compare, args.scale, args.json)
    if args.model is not None:
        network = load_structure(args.model, args.scale, args.num_classes)
    else:
        settings = _settings(args.settings) | ({} if args.genotype is None else {"genotype": args.genotype})
        network = build_by_name(args.arch, settings, args.scale, args.num_classes)
    costs = complexity_of(network)
    if args.official is not None:
        costs["true_accuracy"] = official_accuracy(network.genotype, args.official)
    if args.json:
        print(json.dumps(costs))
    else:
        _print_layers(network, costs)
    return 0


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Return ``["--nf", "48", "--num_cells=4"]`` as a mapping, its values read as in an option file."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    names, values = split[::2], split[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise UserError(f"'{' '.join(words)}': settings of the network come in pairs, such as --nf 48.")
    if len(set(names)) < len(names):
        raise UserError(f"{next(name for name in names if names.count(name) > 1)} is given twice.")
    try:
        return {name.removeprefix("--"): yaml.load(value, Loader=OptionLoader) for name, value in zip(names, values, strict=True)}
    except yaml.YAMLError as error:
        raise UserError(f"'{' '.join(words)}': a value is no YAML.") from error


def _print_layers(network: Network, costs: dict[str, Any]) -> None:
    sizes = {name: value for name, value in network.settings().items() if name not in ("scale", "genotype")}
    scale = f" x{network.scale}" if isinstance(network, SRNetwork) else ""
    title = f"{network.genotype}{scale}, {', '.join(f'{name} {value}' for name, value in sizes.items())}"
    multiply_adds = macs(costs, 2)
    table = Table(title=title, caption="multiply-adds as fvcore counts them")
    for heading in ("layer", "kind", "parameters", next(iter(multiply_adds))):
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right")
    for name, kind, params, count in per_layer(network):
        table.add_row(name, kind, f"{params:,}", f"{count / 1e9:.4f} G")
    console = Console(markup=False, highlight=False)
    console.print(table)
    lines = {"parameters": f"{costs['params']:,}"} | multiply_adds
    lines |= {f"true accuracy, {name}": accuracy for name, accuracy in truth(costs).items()}
    width = max(map(len, lines))
    for name, value in lines.items():
        console.print(f"{name:<{width}}  {value}")


def _compare(paths: Sequence[Path], scale: int | None, as_json: bool) -> int:
    networks = {row.name: build_by_name(row.arch, {"genotype": row.genotype}, row.scale) for row in published.ROWS}
    networks |= {str(path): load_structure(path, scale) for path in paths}
    upscaling = {name: network for name, network in networks.items() if isinstance(network, SRNetwork)}
    if classifiers := networks.keys() - upscaling.keys():
        raise UserError(f"--compare is for networks of super-resolution; count {min(classifiers)} with --model.")
    rows: list[dict[str, Any]] = [
        {"name": name, "genotype": network.genotype.to_json(), "scale": network.scale} | complexity(network) | footprint(network)
        for name, network in track(upscaling.items(), "measuring", console=Console(stderr=True), transient=True)
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table()
    table.add_column("network", overflow="fold")
    for heading in ("scale", "parameters", "MACs, LR", "MACs, HR", "field", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            f"x{row['scale']}",
            f"{row['params']:,}",
            f"{row['macs_lr_1280x720'] / 1e9:.2f} G",
            f"{row['macs_hr_1280x720'] / 1e9:.2f} G",
            "all" if row["receptive_field"] is None else f"{row['receptive_field']} px",
            f"{row['peak_activation_bytes'] / 1e6:.0f} MB",
        )
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(LEGEND, soft_wrap=True)
    return 0
