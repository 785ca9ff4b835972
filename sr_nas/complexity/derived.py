"""Complexity of the networks of one space of super-resolution: the first is counted, of the others what differs."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import cast

import torch

from sr_nas.complexity.macs import conventions, count_fractions, count_params
from sr_nas.contracts import SearchSpace, SRNetwork
from sr_nas.genotype import Genotype


class DerivedComplexity:
    """:func:`sr_nas.complexity.macs.complexity` of a space's networks: from the second on far sooner than by counting it.

    They differ in what stands at the space's cost sites and in nothing else that costs (:mod:`sr_nas.contracts`), so that
    counts of candidates, each made once, give the difference to the last multiply-add. A space with sites on other sizes than
    the network's input has every network counted whole, since such sizes are rounded within the network.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.sites, self.choices = space, space.cost_sites(), space.choices()
        self.first: tuple[Genotype, tuple[Fraction, ...]] | None = None
        self._site = cache(self._count_site)

    def __call__(self, genotype: Genotype) -> dict[str, int]:
        """Return ``params``, ``macs_lr_1280x720`` and ``macs_hr_1280x720`` of a genotype's network."""
        if self.first is None or any(site.downscale != 1 for own in self.sites.values() for site in own):
            network = cast(SRNetwork, self.space.derive(genotype))
            self.first = genotype, tuple(count[""] for count in count_fractions(network, *conventions(network.scale)))
        else:
            with torch.device("meta"):
                network = cast(SRNetwork, self.space.derive(genotype))
        counted, macs = self.first
        for label in self.sites:
            for sign, names in ((1, genotype[label]), (-1, counted[label])):
                for name in names:
                    macs = tuple(a + sign * b for a, b in zip(macs, self._site(label, name, network.scale), strict=True))
        lr, hr = map(round, macs)
        return {"params": count_params(network), "macs_lr_1280x720": lr, "macs_hr_1280x720": hr}

    def _count_site(self, label: str, name: str, scale: int) -> tuple[Fraction, ...]:
        found = []
        for site in self.sites[label]:
            counts = count_fractions(site.build(name), *conventions(scale), channels=site.channels)
            found.append([site.count * count[""] for count in counts])
        return tuple(sum(counts, Fraction(0)) for counts in zip(*found, strict=True))
