"""Measure this machine: benchmark data, what the training's loader delivers; benchmark inference, upscaling a large photo;
benchmark supernet, the passes of a search."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark``."""
    parser = argparse.ArgumentParser(prog="benchmark", description=__doc__, epilog="benchmark WHAT --help tells the rest.")
    parser.add_argument("what", choices=("data", "inference", "supernet"), help="what is measured")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its options")
    parsed = parser.parse_args(arguments)
    found: int = importlib.import_module(f"sr_nas.commands.benchmark_{parsed.what}").main(parsed.rest)
    return found
