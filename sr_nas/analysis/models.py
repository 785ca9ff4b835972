"""The command ``models``: the networks that ship with the package, and their figures."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from rich.console import Console

from sr_nas.export.model import shipped_networks
from sr_nas.report.tables import Table, remarks


def main(args: Namespace) -> int:
    """Run ``models``."""
    networks = shipped_networks()
    if args.json:
        print(json.dumps(networks, indent=2))
        return 0
    console = Console(markup=False, highlight=False)
    if not networks:
        console.print("no network ships with this copy of sr_nas", soft_wrap=True)
        return 0
    names = list(dict.fromkeys(name for facts in networks.values() for name in facts.get("sets", {})))
    Table([row(name, facts, names) for name, facts in networks.items()], "PSNR in dB / SSIM").print(console)
    machines = [facts["machine"] for facts in networks.values() if "machine" in facts]
    lines = {"MACs: multiply-adds for an HR output of 1280x720, which takes so many ms of inference": ""}
    lines |= {f"ms: {one['host']}, threads: {one['threads']}": "" for one in machines}
    for name, facts in networks.items():
        origin = f"trained on {facts.get('data', 'images that are not stated')}; license: {facts.get('license', 'not stated')}: "
        lines[origin] = ", ".join(filter(None, (lines.get(origin), name)))
    for line, those in lines.items():
        remarks(console).print(line + those, soft_wrap=True)
    return 0


def row(name: str, facts: dict[str, Any], sets: list[str]) -> dict[str, str]:
    """Return the cells of a network; what its file does not state is a dash."""
    scores = {one: facts.get("sets", {}).get(one) for one in sets}
    return {
        "name": name,
        "scale": f"x{facts['scale']}",
        "parameters": f"{facts['params']:,}" if "params" in facts else "-",
        "MACs": f"{facts['macs_hr_1280x720'] / 1e9:.2f} G" if "macs_hr_1280x720" in facts else "-",
        "ms": f"{facts['latency_ms']:.0f}" if "latency_ms" in facts else "-",
    } | {one: f"{score['psnr']:.2f} / {score['ssim']:.4f}" if score else "-" for one, score in scores.items()}
