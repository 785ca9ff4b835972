"""What a network costs, and what it is known to reach, as the records of a search and the commands say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sr_nas.bridge.nats_bench import official_accuracy
from sr_nas.complexity.summary import classifier_complexity, complexity
from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.nasbench.table import true_accuracy


def describe(network: Network, official: Path | None = None) -> dict[str, Any]:
    """Return ``params``, multiply-adds by the conventions of the network's task, and ``true_accuracy`` where it is known.

    Args:
        network: any.
        official: the benchmark's own file, to read ``true_accuracy`` from instead of the bundled table.

    Raises:
        UserError: an official file that cannot be read, or that does not know the network.
    """
    if official is not None:
        known = official_accuracy(network.genotype, official)
        return describe(network) | {"true_accuracy": known}
    if isinstance(network, SRNetwork):
        return dict(complexity(network))
    assert isinstance(network, Classifier)
    truth = true_accuracy(network.genotype)
    return classifier_complexity(network) | ({} if truth is None else {"true_accuracy": truth})
