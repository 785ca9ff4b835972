"""Regularisers of alpha: functions of the logits of all choices, without their strength lambda_e.

To add one, register a function here and name it under ``search.regularizer.type`` in an option file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sr_nas.registry import REGULARIZERS


@REGULARIZERS.register()
def none(alpha: Sequence[Tensor]) -> Tensor:
    """0: no regulariser."""
    return alpha[0].new_zeros(())


@REGULARIZERS.register()
def l2(alpha: Sequence[Tensor]) -> Tensor:
    """Sum of squares over all choices (DARTS; figure 3 of SA-DARTS)."""
    return torch.stack([logits.square().sum() for logits in alpha]).sum()


@REGULARIZERS.register()
def beta(alpha: Sequence[Tensor]) -> Tensor:
    """Mean over choices of ``log(sum(exp(alpha)))`` (Beta-DARTS, Ye et al. 2022)."""
    return torch.stack([logits.logsumexp(dim=-1) for logits in alpha]).mean()


@REGULARIZERS.register()
def sa(alpha: Sequence[Tensor], *, nu: float = 1.0, mu: float = 0.0) -> Tensor:
    """Smooth activation (SA-DARTS, eq. 7): mean of ``((1+nu) a + (1-nu) a erf(mu (1-nu) a)) / 2``.

    The mean runs over all candidates of all choices, i.e. ``1 / (N_o N_e)`` of eq. 7 where all choices have as many.
    With nu = 1 it is ``mean(alpha)``, eq. 8, the paper's default. Large mu approaches a leaky ReLU of negative slope nu;
    nu = 0 with mu = 1/sqrt(2) is GELU.

    Softmax does not change when all alphas of a choice shift together, and the gradient of eq. 8 is one constant for all
    of them: it cannot change beta by itself. It acts through Adam, whose second moment it inflates: the steps that the
    task drives shrink as lambda_e grows. With plain SGD it leaves beta exactly as without regulariser.
    """
    a = torch.cat([logits.flatten() for logits in alpha])
    return (((1 + nu) * a + (1 - nu) * a * torch.erf(mu * (1 - nu) * a)) / 2).mean()
