"""The command ``complexity``: one network layer by layer, or a table of several beside those of the paper."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from sr_nas.classification.nasbench201_table import official_accuracy
from sr_nas.complexity.costs import complexity, footprint, per_layer
from sr_nas.complexity.latency import machine
from sr_nas.contracts import Network, SRNetwork
from sr_nas.errors import UserError, short, shortened
from sr_nas.export.model import build_by_name, load_structure
from sr_nas.genotype import Genotype
from sr_nas.jobs.latency import latency_of
from sr_nas.jobs.search import extremes
from sr_nas.options.load import load_options, parse_yaml
from sr_nas.report.drawings import draw
from sr_nas.report.progress import macs, truth
from sr_nas.report.tables import Table, remarks
from sr_nas.runs.device import pick_device
from sr_nas.task import complexity_of, find_task, search_options, with_candidates_kept

LEGEND = """\
LR      multiply-adds (fvcore) for an LR input of 1280x720
HR      multiply-adds for an HR output of 1280x720
field   receptive field in LR pixels; all: the whole image. Of the paper's DLSR, which it prints without links,
        where each cell reads the two before it
memory  peak of activations for an HR output of 1280x720, single precision"""


@dataclass(frozen=True)
class Row:
    """A super-resolution row of SA-DARTS (Zhou et al., arXiv 2504.16306), tables 3 and 7, as printed.

    Attributes:
        name: as in the paper, but for "FLOPs term", which is its "w/ FLOPs constraint".
        genotype: the operations as the text names them; for SAC-IMDN, which it does not name, those of the one row with the
            same parameter count.
        search: option file of the search, in ``options/`` and in ``options/paper/``; ``""`` for a network made by hand.
        params: in thousands.
        multi_adds: in 10^9.
        psnr: at x2, in dB: Set5, Set14, B100, Urban100.
    """

    name: str
    genotype: str
    search: str
    params: float
    multi_adds: float
    psnr: tuple[float, float, float, float]

    @property
    def arch(self) -> str:
        """Registered name of the network."""
        return "DLSR" if "DLSR" in self.name else "IMDN"

    @property
    def scale(self) -> int:
        """Scale of the head that the paper counts, whatever the scale of the scores."""
        return {"DLSR": 2, "IMDN": 4}[self.arch]

    @property
    def training(self) -> str:
        """Option file of the training, in ``options/paper/``."""
        return f"train_{self.search or 'imdn'}"


_COMPACT = "dsconv_3x3,conv_3x3,dsconv_3x3_bn,dsconv_5x5"
_LARGE = "conv_5x5_bn,conv_5x5,conv_5x5_bn,conv_5x5_bn"
_TINY = "dil_dsconv_3x3,dsconv_3x3,dsconv_3x3,dil_dsconv_3x3"

ROWS = (
    Row("DLSR", "sep_conv_5x5,conv_1x1,sep_conv_7x7", "dlsr", 322.62, 363.37, (37.91, 33.56, 32.17, 32.10)),
    Row("IMDN", "conv_3x3,conv_3x3,conv_3x3,conv_3x3", "", 715.18, 654.53, (38.00, 33.63, 32.19, 32.17)),
    Row("DLSR + Beta-DARTS", "conv_7x7,conv_7x7,conv_7x7", "beta_dlsr", 2243.00, 2131.14, (37.88, 33.46, 32.09, 31.71)),
    Row("SA-DLSR", "dil_conv_3x3,dil_conv_3x3,dil_conv_5x5", "sa_dlsr", 264.73, 215.90, (37.97, 33.53, 32.16, 32.02)),
    Row("SAC-DLSR", "sep_conv_3x3,sep_conv_3x3,sep_conv_3x3", "sac_dlsr", 309.37, 350.70, (37.98, 33.58, 32.17, 32.16)),
    Row("IMDN + Beta-DARTS", _LARGE, "beta_imdn", 1773.67, 1745.04, (38.01, 33.47, 32.11, 32.12)),
    Row("SAC-IMDN", _COMPACT, "sac_imdn", 349.22, 317.09, (37.98, 33.65, 32.20, 32.21)),
    Row("IMDN + Beta-DARTS, FLOPs term", _COMPACT, "beta_imdn_flops", 349.22, 431.38, (37.91, 33.27, 32.05, 31.87)),
    Row("SAC-IMDN, FLOPs term", _TINY, "sac_imdn_flops", 200.04, 293.89, (37.92, 33.32, 32.08, 31.93)),
)


def main(args: Namespace) -> int:
    """Run ``complexity``; ``args.settings`` are the words that no argument takes: settings of the network."""
    if args.draw is not None:
        _check_drawing(args)
    if args.space is not None:
        return _print_space(args.space, args.json, args.draw)
    if args.arch is None and (args.settings or args.genotype is not None):
        first = (args.settings or ["--genotype"])[0]
        raise UserError(f"{first} describes a network that --arch names; --model and --compare take none.")
    if args.compare is not None:
        if args.official is not None:
            raise UserError("--official tells of one network, which --arch or --model names.")
        if args.latency:
            raise UserError("--latency times one network, which --arch or --model names; tools/evaluate.py times several.")
        return _compare(args.compare, args.scale, args.json)
    if args.model is not None:
        network = load_structure(args.model, args.scale, args.num_classes)
    else:
        settings = _settings(args.settings) | ({} if args.genotype is None else {"genotype": args.genotype})
        network = build_by_name(args.arch, settings, args.scale, args.num_classes)
    costs = complexity_of(network)
    if args.draw is not None:
        counts = [f"{costs['params']:,} parameters", *(f"{name} {value}" for name, value in macs(costs).items())]
        draw(network, network.genotype, args.draw, "; ".join(counts))
    if args.latency:
        if not isinstance(network, SRNetwork):
            raise UserError("--latency is for networks of super-resolution.")
        (costs["latency_ms"],), costs["latency_spread"] = latency_of([network])
        costs["machine"] = machine(str(pick_device("auto"))) | {"threads": torch.get_num_threads()}
    if args.official is not None:
        costs["truth"] = official_accuracy(network.genotype, args.official)
    if args.json:
        print(json.dumps(costs))
    else:
        _print_layers(network, costs)
    return 0


def _check_drawing(args: Namespace) -> None:
    """Raise UserError where the file of a drawing cannot be written, or nothing can be drawn."""
    if args.compare is not None:
        raise UserError("--draw draws one network, which --arch or --model names, or the supernet of --space.")
    if args.draw.suffix not in (".png", ".svg"):
        raise UserError(f"--draw {args.draw}: a drawing is a .png or an .svg file.")
    if args.draw.exists() and not args.overwrite:
        raise UserError(f"--draw {args.draw}: it exists; --overwrite replaces it.")


def _print_space(file: Path, as_json: bool, drawing: Path | None) -> int:
    """Print the cheapest and the dearest network, in each cost, of the space that an option file of a search names.

    A drawing is of the supernet: each operation stands for all candidates, each cell reads all that it may.
    """
    options = with_candidates_kept(load_options(search_options, file))
    task = find_task(options.task)
    space = task.space(options)
    if drawing is not None:
        choices = space.choices().items()
        picks = ((key, c.candidates if c.of == "inputs" else (f"{len(c.candidates)} candidates",)) for key, c in choices)
        draw(space, Genotype(space.arch, tuple(picks)), drawing, f"supernet, {len(choices)} choices")
    rows = extremes(space, task)
    if as_json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        row |= {"at least": short(row.pop("least")), "at most": short(row.pop("most"))}
        for end in ("cheapest", "dearest"):
            genotype = Genotype.from_json(row.pop(end))
            row[end] = ", ".join(genotype[label][0] for label in space.cost_sites())
    Table(rows).print(Console(markup=False, highlight=False))
    return 0


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Return ``["--nf", "48", "--num_cells=4"]`` as a mapping, its values read as in an option file."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    names, values = split[::2], split[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise UserError(f"'{' '.join(words)}': settings of the network come in pairs, such as --nf 48.")
    if len(set(names)) < len(names):
        raise UserError(f"{next(name for name in names if names.count(name) > 1)} is given twice.")
    return {
        name.removeprefix("--"): parse_yaml(value, shortened(f"{name} {value}"))
        for name, value in zip(names, values, strict=True)
    }


def _print_layers(network: Network, costs: dict[str, Any]) -> None:
    sizes = {name: value for name, value in network.settings().items() if name not in ("scale", "genotype")}
    scale = f" x{network.scale}" if isinstance(network, SRNetwork) else ""
    title = f"{network.genotype}{scale}, {', '.join(f'{name} {value}' for name, value in sizes.items())}"
    multiply_adds = macs(costs, 2)
    unit = next(iter(multiply_adds))
    rows = [
        {"layer": name, "kind": kind, "parameters": f"{times}{params:,}", unit: f"{times}{count / 1e9:.4f} G"}
        for times, name, kind, params, count in _blocks_once(per_layer(network))
    ]
    console = Console(markup=False, highlight=False)
    Table(rows, title).print(console)
    lines = {"parameters": f"{costs['params']:,}"} | multiply_adds
    if "latency_ms" in costs:
        lines["latency, HR output 1280x720"] = f"{costs['latency_ms']:.4g} ms here (spread {costs['latency_spread']:.0%})"
    lines |= {f"trained, {name}": scores for name, scores in truth(costs).items()}
    width = max(map(len, lines))
    for name, value in lines.items():
        remarks(console).print(f"{name:<{width}}  {value}")
    remarks(console).print("multiply-adds as fvcore counts them")


def _blocks_once(layers: Sequence[tuple[str, str, int, int]]) -> list[tuple[Any, ...]]:
    """Return the layers, those that numbered blocks have alike once: ``("4 x ", "blocks.0-3.fuse", ...)``."""
    merged: dict[tuple[Any, ...], list[str]] = {}
    for name, *rest in layers:
        match = re.match(r"(\D+\.(?:\d+\.)*)(\d+)(\.\D.*)", name) or ("", name, "", "")
        merged.setdefault((match[1], match[3], *rest), []).append(match[2])
    rows: list[tuple[Any, ...]] = []
    for (stem, tail, *rest), numbers in merged.items():
        gaps = len(numbers) > 1 and int(numbers[-1]) - int(numbers[0]) >= len(numbers)
        which = ",".join(numbers) if gaps else "-".join(dict.fromkeys((numbers[0], numbers[-1])))
        rows.append((f"{len(numbers)} x " * (len(numbers) > 1), f"{stem}{which}{tail}", *rest))
    return rows


def _compare(paths: Sequence[Path], scale: int | None, as_json: bool) -> int:
    networks = {row.name: build_by_name(row.arch, {"genotype": row.genotype}, row.scale) for row in ROWS}
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
    texts = [
        {
            "network": row["name"],
            "scale": f"x{row['scale']}",
            "parameters": f"{row['params']:,}",
            "MACs, LR": f"{row['macs_lr_1280x720'] / 1e9:.2f} G",
            "MACs, HR": f"{row['macs_hr_1280x720'] / 1e9:.2f} G",
            "field": "all" if row["receptive_field"] is None else f"{row['receptive_field']} px",
            "memory": f"{row['peak_activation_bytes'] / 1e6:.0f} MB",
        }
        for row in rows
    ]
    console = Console(markup=False, highlight=False)
    Table(texts).print(console)
    remarks(console).print(LEGEND, soft_wrap=True)
    return 0
