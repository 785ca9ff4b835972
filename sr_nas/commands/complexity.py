"""Count a network's parameters and multiply-adds (fvcore), of super-resolution in both conventions of the field.

Name the network by --arch, a genotype and its settings; or by --model, for what a run, an export or an option file holds.
--compare measures the networks of the SA-DARTS paper, and any others, in one table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_nas.errors import UserError

if TYPE_CHECKING:
    from sr_nas.contracts import Network


def main(arguments: Sequence[str]) -> int:
    """Run ``complexity``."""
    parser = argparse.ArgumentParser(
        prog="complexity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every other option is a setting of the network: --nf 48, --num_blocks 6 (IMDN), --num_cells 6 (DLSR).",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", help="architecture, e.g. imdn, dlsr or nasbench201")
    held = "folder of a search or training, exported file, option file of a training, or genotype file"
    which.add_argument("--model", type=Path, metavar="PATH", help=held)
    which.add_argument(
        "--compare", nargs="*", type=Path, metavar="PATH", help=f"a table of the paper's networks and of each {held}"
    )
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), help="upscaling factor (default: 4; of a genotype file: 2)")
    parser.add_argument("--num_classes", type=int, metavar="N", help="classes that a classifier tells apart (default: 10)")
    parser.add_argument(
        "--genotype", metavar="A,B,...|FILE", help="names, a genotype file or a run folder; default: the published network"
    )
    parser.add_argument(
        "--official",
        type=Path,
        metavar="PATH",
        help="read the true accuracy of a network of NAS-Bench-201 from this file or folder of NATS-Bench or NAS-Bench-201, "
        "not from the bundled table; needs sr_nas[nasbench]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed, others = parser.parse_known_args(arguments)
    if parsed.arch is None and (others or parsed.genotype is not None):
        raise UserError(
            f"{(others or ['--genotype'])[0]} describes a network that --arch names; --model and --compare take none."
        )

    from sr_nas.commands.architecture import any_network_in, classifier_of, is_classifier, network_of
    from sr_nas.jobs.evaluate import describe

    network: Network
    if parsed.compare is not None and parsed.official is not None:
        raise UserError("--official tells of one network, which --arch or --model names.")
    if parsed.compare is not None:
        return _compare(parsed.compare, parsed.scale, parsed.json)
    if parsed.model is not None:
        network = any_network_in(parsed.model, parsed.scale, parsed.num_classes)
    else:
        settings = _settings(others) | ({} if parsed.genotype is None else {"genotype": parsed.genotype})
        if is_classifier(parsed.arch):
            if parsed.scale is not None:
                raise UserError(f"--scale {parsed.scale}: {parsed.arch} is a classifier, and has none.")
            network = classifier_of(parsed.arch, parsed.num_classes or 10, settings)
        else:
            network = network_of(parsed.arch, parsed.scale or 4, settings)
    described = describe(network, parsed.official)
    if parsed.json:
        print(json.dumps(described))
    else:
        _print_layers(network, described)
    return 0


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """``["--nf", "48", "--num_cells=4"]`` as a mapping, its values read as in an option file."""
    import yaml

    from sr_nas.options.load import OptionLoader

    joined = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    names, values = joined[::2], joined[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise UserError(f"'{' '.join(words)}': settings of the network come in pairs, such as --nf 48.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is given twice.")
    try:
        return {name.removeprefix("--"): yaml.load(value, Loader=OptionLoader) for name, value in zip(names, values, strict=True)}
    except yaml.YAMLError as error:
        raise UserError(f"'{' '.join(words)}': a value is no YAML.") from error


def _print_layers(network: Any, counted: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from sr_nas.complexity.macs import per_layer
    from sr_nas.contracts import SRNetwork
    from sr_nas.report.progress import macs, truth

    sizes = {name: value for name, value in network.settings().items() if name not in ("scale", "genotype")}
    scale = f" x{network.scale}" if isinstance(network, SRNetwork) else ""
    title = f"{network.genotype}{scale}, {', '.join(f'{name} {value}' for name, value in sizes.items())}"
    costs = macs(counted, 2)
    table = Table(title=title, caption="multiply-adds as fvcore counts them")
    for heading in ("layer", "kind", "parameters", next(iter(costs))):
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right")
    for name, kind, params, count in per_layer(network):
        table.add_row(name, kind, f"{params:,}", f"{count / 1e9:.4f} G")
    console = Console(markup=False)
    console.print(table)
    lines = {"parameters": f"{counted['params']:,}"} | costs
    lines |= {f"true accuracy, {name}": known for name, known in truth(counted).items()}
    width = max(map(len, lines))
    for name, value in lines.items():
        console.print(f"{name:<{width}}  {value}", highlight=False)


def _compare(paths: Sequence[Path], scale: int | None, as_json: bool) -> int:
    from rich.console import Console
    from rich.progress import track

    from sr_nas.commands.architecture import network_in, network_of
    from sr_nas.complexity.macs import complexity, footprint
    from sr_nas.published import ROWS

    networks = {row.name: network_of(row.arch, row.scale, {"genotype": row.genotype}) for row in ROWS}
    networks |= {str(path): network_in(path, scale) for path in paths}
    measured = [
        {"name": name, "genotype": network.genotype.to_json(), "scale": network.scale} | complexity(network) | footprint(network)
        for name, network in track(networks.items(), "measuring", console=Console(stderr=True), transient=True)
    ]
    if as_json:
        print(json.dumps(measured, indent=2))
    else:
        _print_comparison(measured)
    return 0


def _print_comparison(measured: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("network", overflow="fold")
    for heading in ("scale", "parameters", "MACs, LR", "MACs, HR", "field", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for found in measured:
        field = found["receptive_field"]
        table.add_row(
            found["name"],
            f"x{found['scale']}",
            f"{found['params']:,}",
            f"{found['macs_lr_1280x720'] / 1e9:.2f} G",
            f"{found['macs_hr_1280x720'] / 1e9:.2f} G",
            "all" if field is None else f"{field} px",
            f"{found['peak_activation_bytes'] / 1e6:.0f} MB",
        )
    console = Console(markup=False)
    console.print(table)
    for name, meaning in (
        ("LR", "multiply-adds (fvcore) for an LR input of 1280x720"),
        ("HR", "multiply-adds for an HR output of 1280x720"),
        ("field", "receptive field in LR pixels; all: the whole image. Of the paper's DLSR, which it prints without links,"),
        ("", "where each cell reads the two before it"),
        ("memory", "peak of activations for an HR output of 1280x720, single precision"),
    ):
        console.print(f"{name:<8}{meaning}", highlight=False, soft_wrap=True)
