"""Weight of a sample's loss by its noise level.

Every rule is a weight ``w(snr)`` of the squared error in the picture, ``|x - x'|^2``. With ``x_t = a x + s e`` and
``snr = a^2 / s^2``, the same error measured in what the model predicts is ``|e - e'|^2 = snr |x - x'|^2`` for noise and
``|v - v'|^2 = (snr + 1) |x - x'|^2`` for velocities (Salimans and Ho 2022, arXiv:2202.00512, section 4). So the weight
of a loss is ``w(snr) / snr`` or ``w(snr) / (snr + 1)``, and one rule trains both kinds of models alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lorica.errors import UnknownNameError

Rule = Callable[[Tensor, float], Tensor]  # snr and gamma to the weight of the error in the picture


def min_snr(snr: Tensor, gamma: float) -> Tensor:
    """``min(snr, gamma)`` (Hang et al. 2023, arXiv:2303.09556; 5 is recommended)."""
    return snr.clamp(max=gamma)


def soft_min_snr(snr: Tensor, gamma: float) -> Tensor:
    """``snr * gamma / (snr + gamma)``, min-SNR without its corner.

    With ``snr = 1 / sigma^2`` this is ``1 / (sigma^2 + 1 / gamma)`` (Crowson et al. 2024, arXiv:2401.11605).
    Some programs have another formula by this name.
    """
    return snr / (snr + gamma) * gamma


def debiased(snr: Tensor, gamma: float) -> Tensor:
    """``sqrt(snr)``, so that a loss on noise weighs ``1 / sqrt(snr)``; ``gamma`` has no part.

    (Yu et al. 2023, arXiv:2310.08442.) The paper gives the form for noise. That for velocities follows as
    above, ``sqrt(snr) / (snr + 1)``; sd-scripts takes ``1 / (snr + 1)`` there.
    """
    del gamma
    return snr.sqrt()


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (min_snr, soft_min_snr, debiased)}
DIVISORS: dict[str, Callable[[Tensor], Tensor]] = {
    "epsilon": lambda snr: snr,
    "v_prediction": lambda snr: snr + 1,
}


def loss_weights(snr: Tensor, rule: str, prediction_type: str, gamma: float = 5.0) -> Tensor:
    """Weight of each sample's loss, ``(b,)``.

    At ``snr`` 0 (zero terminal SNR) a velocity weighs 0 by every rule, and noise what the rule tends to.

    Args:
        snr: that of each sample, ``(b,)``.
        rule: a name in ``RULES``.
        prediction_type: ``epsilon`` or ``v_prediction``.
        gamma: where the min-SNR rules level off.

    Raises:
        UnknownNameError: for another rule or prediction type.
    """
    if rule not in RULES:
        raise UnknownNameError.choose("loss weighting", rule, RULES)
    if prediction_type not in DIVISORS:
        raise UnknownNameError.choose("prediction type", prediction_type, DIVISORS)
    above_zero = snr.clamp(min=torch.finfo(snr.dtype).tiny)
    return RULES[rule](above_zero, gamma) / DIVISORS[prediction_type](above_zero)
