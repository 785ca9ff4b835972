"""``sr-nas <command>`` and ``tools/<command>.py``: the same entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from sr_nas.errors import UserError, nearest
from sr_nas.runs.allocator import keep_freed_memory

COMMANDS = {
    "prepare_data": "fetch data sets, make LR images, crop, pack and check them",
    "search": "search a network: option file -> genotype",
    "train": "train a network",
    "evaluate": "measure PSNR and SSIM by the field's protocol",
    "analyze": "compare searches: gaps, curves, landscapes, grids of options, replaced operations",
    "complexity": "count parameters and multiply-adds",
    "export": "write a trained network as one self-describing file",
    "inference": "upscale images",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. Errors meant for the user are printed without a traceback.

    Args:
        arguments: the command and its own arguments; by default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: sr-nas COMMAND ...\n\n" + "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items()))
        print("\nsr-nas COMMAND --help tells more; tools/COMMAND.py is the same.")
        return 0 if words else 2
    command, *rest = words
    if command not in COMMANDS:
        print(
            f"sr-nas: unknown command '{command}'{nearest(command, COMMANDS)} Commands: {', '.join(COMMANDS)}.", file=sys.stderr
        )
        return 2
    if command != "inference":
        # A large photo is bound to fit 4 GB, which what is kept would exceed.
        keep_freed_memory()
    try:
        return importlib.import_module(f"sr_nas.commands.{command}").main(rest)
    except UserError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:  # no space, no permission: the machine's trouble, which the text names
        print(f"{command}: {error}", file=sys.stderr)
        return 1


def tool(command: str) -> None:
    """Entry point of ``tools/<command>.py``."""
    sys.exit(main([command, *sys.argv[1:]]))
