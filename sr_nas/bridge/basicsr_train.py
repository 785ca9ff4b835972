"""Stock BasicSR's own training with our networks: ``python -m sr_nas.bridge.basicsr_train -opt file.yml``.

The arguments are those of ``basicsr/train.py``; runs go to ``experiments`` in the current folder. With ``num_gpu: 0`` it
trains on the CPU.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from sr_nas.bridge.basicsr import register_networks
from sr_nas.errors import UserError


def main() -> int:
    """Run BasicSR's training pipeline on the arguments of the command line; return the exit code."""
    try:
        register_networks()
    except UserError as error:
        print(f"basicsr_train: {error}", file=sys.stderr)
        return 1
    importlib.import_module("basicsr.train").train_pipeline(str(Path.cwd()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
