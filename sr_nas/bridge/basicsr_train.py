"""Run stock BasicSR's own training with our networks: ``python -m sr_nas.bridge.basicsr_train -opt file.yml``.

The arguments are those of ``basicsr/train.py``; runs go to ``experiments`` in the current folder. With ``num_gpu: 0`` it
trains on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import sr_nas.bridge.basicsr_archs  # noqa: F401 - enters our networks in basicsr's registry


def main() -> None:
    """Run BasicSR's train pipeline on the arguments of the command line."""
    from basicsr.train import train_pipeline

    train_pipeline(str(Path.cwd()))


if __name__ == "__main__":
    main()
