"""Measure this machine.

supernet     a pass of a search's supernet, beside its plain network
search-step  a whole step of a search, and its parts
inference    upscaling, beside plain PyTorch and ONNX Runtime; a large photo
data         what the training's loader delivers
all          all of them, with modest settings
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

WHAT = ("supernet", "search-step", "inference", "data")


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark``."""
    parser = argparse.ArgumentParser(
        prog="benchmark",
        description=__doc__,
        epilog="benchmark WHAT --help tells the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=(*WHAT, "all"), help="what is measured")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its options")
    parsed = parser.parse_args(arguments)
    return run(parsed.what, parsed.rest)


def run(what: str, arguments: Sequence[str]) -> int:
    """Run one of the measurements, or ``all``."""
    found: int = importlib.import_module(f"sr_nas.commands.benchmark_{what.replace('-', '_')}").main(arguments)
    return found
