"""A network that another program runs: the graph of an exported file, behind the face of a network of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import described
from sr_nas.inference.receptive import pools_globally, receptive_radius
from sr_nas.networks.settings_tensor import network_from


class ExecutedNetwork(SRNetwork):
    """A graph in a file, which can be run and nothing else: it has no parameters, and is neither trained nor saved.

    Args:
        metadata: of the file, as :func:`executed_metadata` gives it.
        run: maps [N, 3, H, W], float32 on any device, to [N, 3, s H, s W], float32 on that device.
        runtime: what runs it, with its version.
        in_torch: whether PyTorch allocates its memory.

    Attributes:
        receptive_radius: of the network, since its layers cannot be seen (see :mod:`sr_nas.inference.receptive`).
        pools_globally: likewise.
    """

    def __init__(self, metadata: Mapping[str, str], run: Callable[[Tensor], Tensor], runtime: str, in_torch: bool) -> None:
        super().__init__()
        self.metadata, self.runtime, self.in_torch, self._run = dict(metadata), runtime, in_torch, run
        with torch.device("meta"):
            shapes = self.plain()
        # In a tuple, so that it is no submodule: on the meta device it has no values to move or to save.
        self._shapes = (shapes,)
        self.arch, self.scale, self.genotype = shapes.arch, shapes.scale, shapes.genotype
        self.receptive_radius = int(metadata["receptive_radius"])
        self.pools_globally = metadata["pools_globally"] == "true"

    def plain(self) -> SRNetwork:
        """Return the network that the file was made of, with other weights: what it costs can be counted on it."""
        return network_from(self.metadata["architecture"], json.loads(self.metadata["settings"]))

    def settings(self) -> dict[str, Any]:
        """The arguments that build the plain network again, JSON-ready."""
        return self._shapes[0].settings()

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``.

        On the meta device, where nothing is computed, the plain network stands in, so that memory can be estimated.

        Raises:
            UserError: under autocast, or where the file's runtime lacks the device.
        """
        if x.is_meta:
            return self._shapes[0](x)
        if torch.is_autocast_enabled(x.device.type):
            raise UserError("the precision of an exported graph was chosen when it was exported: run it as fp32.")
        return self._run(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> ExecutedNetwork:
        # Nothing of it ever changes, and sessions cannot be copied.
        return self


def countable(network: SRNetwork) -> SRNetwork:
    """Return a network whose layers can be counted: itself, or the plain one that an exported graph was made of."""
    return network.plain() if isinstance(network, ExecutedNetwork) else network


def executed_metadata(network: SRNetwork, training: dict[str, Any] | None) -> dict[str, str]:
    """Return what the file of a graph says: :func:`~sr_nas.export.network_file.described`, and what its layers would tell.

    Beyond that: ``parameters`` (before BatchNorms are folded), ``receptive_radius`` (LR pixels) and ``pools_globally``.
    """
    return described(network, training) | {
        "parameters": str(sum(parameter.numel() for parameter in network.parameters())),
        "receptive_radius": str(receptive_radius(network)),
        "pools_globally": str(pools_globally(network)).lower(),
    }


def executed(
    metadata: Mapping[str, str], run: Callable[[Tensor], Tensor], runtime: str, in_torch: bool, path: Path
) -> ExecutedNetwork:
    """Return the network of a file's graph, in eval mode.

    Raises:
        UserError: the file is no export of ours, or of an architecture that is not known here.
    """
    missing = [key for key in ("architecture", "settings", "receptive_radius", "pools_globally") if key not in metadata]
    if missing:
        raise UserError(f"{path} was not exported by sr_nas: its metadata has no '{missing[0]}'.")
    return ExecutedNetwork(metadata, run, runtime, in_torch).eval()
