"""What a network costs, and what it is known to reach, as the records of a search and the commands say it."""

from __future__ import annotations

from typing import Any

from sr_nas.complexity.summary import classifier_complexity, complexity
from sr_nas.contracts import Classifier, Network, SRNetwork
from sr_nas.nasbench.table import true_accuracy


def describe(network: Network) -> dict[str, Any]:
    """Return ``params``, multiply-adds by the conventions of the network's task, and ``true_accuracy`` where it is known."""
    if isinstance(network, SRNetwork):
        return dict(complexity(network))
    assert isinstance(network, Classifier)
    truth = true_accuracy(network.genotype)
    return classifier_complexity(network) | ({} if truth is None else {"true_accuracy": truth})
