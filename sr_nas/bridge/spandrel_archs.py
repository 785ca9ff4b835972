"""Importing this module enters every network of ours in spandrel's ``MAIN_REGISTRY``.

``spandrel.ModelLoader().load_from_file`` then opens the ``.safetensors`` and ``.pth`` files that ``tools/export.py`` writes.
Spandrel hands on tensors without metadata, so ours are recognised by their tensor ``sr_nas.settings``
(:mod:`sr_nas.export.network_file`), and before spandrel's own, some of which recognise networks by a few names.
"""

from __future__ import annotations

from typing import Any

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import SETTINGS, build_network, read_settings
from sr_nas.inference.tiles import pools_globally
from sr_nas.registry import NETWORKS

try:
    import spandrel
except ModuleNotFoundError as error:
    if error.name != "spandrel":
        raise
    raise UserError("spandrel is not installed: pip install 'sr_nas[spandrel]'.") from error


def tags(network: SRNetwork) -> list[str]:
    """Return sizes in spandrel's way, ``64nf`` and ``6nb`` (``num_blocks``), then the genotype, its names joined by commas."""
    sizes = {key: value for key, value in network.settings().items() if key != "scale" and isinstance(value, int)}
    short = {key: "".join(word[0] for word in key.split("_")) if "_" in key else key for key in sizes}
    genotype = ",".join("+".join(names) for _, names in network.genotype.picks)
    return [*(f"{value}{short[key]}" for key, value in sizes.items()), genotype]


class OurArchitecture(spandrel.Architecture[SRNetwork]):
    """A registered network as a spandrel architecture: ``id`` is ``sr_nas-IMDN``, ``name`` is ``IMDN``."""

    def __init__(self, arch: str) -> None:
        self._arch = arch
        super().__init__(id=f"sr_nas-{arch}", name=arch, detect=self._detect)

    def _detect(self, state_dict: dict[str, Any]) -> bool:
        return SETTINGS in state_dict and read_settings(state_dict[SETTINGS])["architecture"] == self._arch

    def load(self, state_dict: dict[str, Any]) -> spandrel.ImageModelDescriptor[SRNetwork]:
        """Build the network of a file's tensors; tiling is discouraged where an output pixel depends on the whole image."""
        network: SRNetwork = build_network(read_settings(state_dict[SETTINGS]), 1000 + len(state_dict))
        return spandrel.ImageModelDescriptor(
            network,
            {name: tensor for name, tensor in state_dict.items() if name != SETTINGS},
            architecture=self,
            purpose="SR",
            tags=tags(network),
            supports_half=True,
            supports_bfloat16=True,
            scale=network.scale,
            input_channels=3,
            output_channels=3,
            tiling=spandrel.ModelTiling.DISCOURAGED if pools_globally(network) else spandrel.ModelTiling.SUPPORTED,
        )


_before = tuple(support.architecture.id for support in spandrel.MAIN_REGISTRY)
for _name in NETWORKS.names():
    spandrel.MAIN_REGISTRY.add(
        spandrel.ArchSupport.from_architecture(OurArchitecture(_name), before=_before), ignore_duplicates=True
    )
