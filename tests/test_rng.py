"""Randomness is a function of the seed, the step and the purpose."""

from __future__ import annotations

import torch

from lorica.rng import generator


def test_the_same_question_has_the_same_answer_whatever_ran_before() -> None:
    first = torch.randn(5, generator=generator(3, 7, "noise"))
    torch.manual_seed(99)
    torch.randn(100)
    assert torch.equal(first, torch.randn(5, generator=generator(3, 7, "noise")))


def test_seed_step_and_purpose_all_count() -> None:
    draws = [torch.randn(5, generator=generator(*key)) for key in ((3, 7, "a"), (4, 7, "a"), (3, 8, "a"), (3, 7, "b"))]
    assert not any(torch.equal(one, two) for number, one in enumerate(draws) for two in draws[:number])


def test_a_key_is_hashed_to_a_seed_that_never_changes() -> None:
    assert generator("3/7/noise").initial_seed() == 7816731556563275340
    assert generator(3, 7, "noise").initial_seed() == 7816731556563275340
