"""The losses entry by entry."""

from __future__ import annotations

import pytest
import torch

from lorica.training.losses import mean_squares, min_snr_weights


def test_each_sample_has_the_mean_of_its_squares() -> None:
    predicted = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 0.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 3.0, 1.0]]])
    assert mean_squares(predicted, target).tolist() == pytest.approx([(0 + 4 + 9) / 3, 9 / 3])


def test_min_snr_weights_entry_by_entry() -> None:
    snr = torch.tensor([0.5, 4.0, 20.0])
    assert min_snr_weights(snr, 5.0, "epsilon").tolist() == pytest.approx([1.0, 1.0, 5 / 20])
    assert min_snr_weights(snr, 5.0, "v_prediction").tolist() == pytest.approx([0.5 / 1.5, 4 / 5, 5 / 21])
