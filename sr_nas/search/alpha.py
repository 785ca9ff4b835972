"""The architecture parameters: one vector of logits per label, apart from any supernet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Choices


class Alpha(nn.Module):
    """alpha of every choice, shape ``[number of candidates]`` per label.

    Args:
        choices: label -> choice.
        init: ``"normal"``: ``value * N(0, 1)`` (the paper: 1e-3); ``"constant"``: ``value`` everywhere.
        value: see ``init``.
        offset: candidate name -> what is added to its logit wherever it stands (SA-DARTS, section 3.2, gives skip 0.1).
        generator: source of the noise.

    Raises:
        UserError: an offset on a candidate that no choice has.
    """

    def __init__(
        self,
        choices: Choices,
        init: Literal["normal", "constant"] = "normal",
        value: float = 1e-3,
        offset: Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        known = sorted({name for choice in choices.values() for name in choice.candidates})
        for name in offset or {}:
            if name not in known:
                raise UserError(
                    f"search.alpha.offset: no choice has the candidate '{name}'{nearest(name, known)} Known: {listing(known)}."
                )
        self.logits = nn.ParameterDict()
        for label, choice in choices.items():
            size = len(choice.candidates)
            start = value * torch.randn(size, generator=generator) if init == "normal" else torch.full((size,), value)
            start += torch.tensor([(offset or {}).get(name, 0.0) for name in choice.candidates])
            self.logits[label] = nn.Parameter(start)

    def relax(self, relaxation: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return label -> weights, with a gradient to alpha."""
        return {label: relaxation(logits) for label, logits in self.by_label().items()}

    def by_label(self) -> dict[str, Tensor]:
        """Return label -> logits, in the order of the labels."""
        return dict(self.logits.items())
