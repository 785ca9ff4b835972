"""What a benchmark measures: networks as they are to run, and bicubic."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.executed import ExecutedNetwork
from sr_nas.export.model import load_model, trained_file
from sr_nas.inference.images import upscaler
from sr_nas.metrics.benchmark import Upscale, bicubic
from sr_nas.options.benchmark import BICUBIC, BenchmarkOptions, Model
from sr_nas.runs.measurements import digest, file_digest

ALL_SCALES = (2, 3, 4)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A row of the table.

    Attributes:
        name: in the table.
        scale: the only one at which it is measured.
        weights: digest of the file and of what says how to read it.
        identity: digest of everything that decides its output: the weights and how they run.
        network: on the CPU; ``None`` for bicubic.
        options: of the network.
    """

    name: str
    scale: int
    weights: str
    identity: str
    network: SRNetwork | None = field(default=None, repr=False)
    options: Model | None = None

    def upscale(self, device: torch.device) -> Upscale:
        """Return it as a function; :meth:`rest` takes the network off the device again."""
        if self.network is None or self.options is None:
            return bicubic
        how = self.options
        return upscaler(self.network, tile=how.tile, device=device, precision=how.precision, ensemble=how.ensemble)

    def in_torch(self) -> bool:
        """Whether PyTorch allocates the memory it runs in."""
        return not isinstance(self.network, ExecutedNetwork) or self.network.in_torch

    def rest(self) -> None:
        """Leave the device to others."""
        if self.network is not None:
            self.network.cpu()


def contestants(options: BenchmarkOptions) -> list[Contestant]:
    """Load everything that is to be measured: bicubic by scale, then the models in their order.

    Raises:
        UserError: a model cannot be loaded; the text names all of these.
    """
    networks, problems = [], []
    for name, model in options.models.items():
        if model is not None:
            try:
                networks.append(_network(name, model))
            except UserError as error:
                problems.append(f"models.{name}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    own = [scale for scale in ALL_SCALES if not networks or any(one.scale == scale for one in networks)]
    scales = own if options.bicubic is None else options.bicubic
    baselines = [Contestant(BICUBIC, scale, digest(BICUBIC), digest(BICUBIC)) for scale in dict.fromkeys(scales)]
    return [*baselines, *networks]


def _network(name: str, model: Model) -> Contestant:
    path = Path(model.path)
    network = load_model(path, model.arch, model.genotype)
    weights = digest(file_digest(trained_file(path) if path.is_dir() else path), network.arch, network.settings())
    runtime = (network.runtime,) if isinstance(network, ExecutedNetwork) else ()
    identity = digest(weights, model.ensemble, model.tile, model.precision, *runtime)
    return Contestant(name, network.scale, weights, identity, network, model)
