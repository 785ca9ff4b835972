"""Importing this module enters every network of ours in basicsr's ``ARCH_REGISTRY``.

A stock BasicSR option file can then name it::

    network_g: {type: IMDN, scale: 2, nf: 64, num_blocks: 6, genotype: [dsconv_3x3, conv_3x3, dsconv_3x3_bn, dsconv_5x5]}
"""

from __future__ import annotations

from sr_nas.bridge.basicsr import import_basicsr
from sr_nas.registry import NETWORKS

import_basicsr()

from basicsr.utils.registry import ARCH_REGISTRY  # noqa: E402 - import_basicsr makes it importable

for _name in NETWORKS.names():
    if _name not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(NETWORKS.get(_name))
