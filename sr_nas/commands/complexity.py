"""Count a network's parameters and multiply-adds (fvcore), in both conventions of the field."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run ``complexity``."""
    parser = argparse.ArgumentParser(prog="complexity", description=__doc__)
    parser.add_argument("--arch", required=True, help="architecture, e.g. imdn")
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), default=4, help="upscaling factor (default: 4)")
    parser.add_argument(
        "--genotype",
        metavar="A,B,C,D|FILE",
        help="candidate names, a genotype file or a run folder; default: the published network",
    )
    parser.add_argument("--nf", type=int, help="feature channels (default: the published network's)")
    parser.add_argument("--num_blocks", type=int, help="number of blocks (default: the published network's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)

    from rich.console import Console
    from rich.table import Table

    from sr_nas.commands.architecture import network_of
    from sr_nas.complexity.summary import MACS_HR, MACS_LR, complexity, per_layer

    network = network_of(parsed.arch, parsed.scale, genotype=parsed.genotype, nf=parsed.nf, num_blocks=parsed.num_blocks)
    counted = complexity(network)
    if parsed.json:
        print(json.dumps(counted))
        return 0
    table = Table(title=f"{network.genotype} x{network.scale}", caption="multiply-adds as fvcore counts them")
    for heading in ("layer", "kind", "parameters", MACS_LR):
        table.add_column(heading, justify="left" if heading in ("layer", "kind") else "right")
    for name, kind, params, macs in per_layer(network):
        table.add_row(name, kind, f"{params:,}", f"{macs / 1e9:.4f} G")
    console = Console()
    console.print(table)
    console.print(f"parameters                {counted['params']:,}", highlight=False)
    console.print(f"{MACS_LR}    {counted['macs_lr_1280x720'] / 1e9:.2f} G", highlight=False)
    console.print(f"{MACS_HR}   {counted['macs_hr_1280x720'] / 1e9:.2f} G", highlight=False)
    return 0
