"""Numbers of a run as TensorBoard shows them. TensorBoard is an extra, and is imported only here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sr_nas.errors import UserError

FOLDER = "tb"


def check_tensorboard() -> None:
    """Raise UserError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"logger.use_tb_logger: TensorBoard is not installed ({error}). pip install 'sr_nas[tensorboard]', or leave it out."
        ) from error


class Scalars:
    """Writes numbers over the iterations of a run; ``None`` as the folder writes nothing.

    Args:
        run: the run folder; events go into ``tb/`` in it.
        start: iterations done before this process began. What an earlier one has written beyond them, TensorBoard drops.
    """

    def __init__(self, run: Path | None, start: int = 0) -> None:
        self._writer = None
        if run is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(run / FOLDER, purge_step=start + 1)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Note the values of an iteration, by their names; a slash in one groups."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)

    def flush(self) -> None:
        """Bring everything to disk: to be called before a checkpoint, from which nothing earlier is written again."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
