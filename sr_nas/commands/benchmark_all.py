"""Measure everything that benchmark measures, with modest settings."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from sr_nas.commands import benchmarks
from sr_nas.commands.benchmark import WHAT, run

SETTINGS: dict[str, tuple[str, ...]] = {
    "supernet": ("--rounds", "3"),
    "search-step": ("--rounds", "3", "--order", "first"),
    "inference": ("--arch", "imdn", "--rounds", "5"),
    "data": ("--images", "4", "--rounds", "3", "--seconds", "0.5"),
}
"""What -> its options here."""


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark all``; what cannot be measured is named, and the rest is measured all the same."""
    parser = argparse.ArgumentParser(prog="benchmark all", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WHAT, default=WHAT, metavar="WHAT", help="not all, but these")
    benchmarks.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parsed = parser.parse_args(arguments)

    from sr_nas.errors import UserError

    benchmarks.ready(parsed)
    results: dict[str, Any] = {}
    for what in parsed.only:
        words = (*SETTINGS[what], "--device", parsed.device)
        try:
            if parsed.json:
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    run(what, (*words, "--json"))
                results[what] = json.loads(printed.getvalue())
            else:
                print(f"\n{what} {' '.join(words)}", flush=True)
                run(what, words)
        except UserError as error:
            print(f"benchmark {what}: {error}", file=sys.stderr)
            results[what] = {"error": str(error)}
    if parsed.json:
        json.dump(results, sys.stdout, indent=2)
        print()
    return int(any("error" in result for result in results.values()))
