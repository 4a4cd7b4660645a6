"""Strengths for each sample of a batch, spread over the batches that a pipeline makes of its prompts."""

from __future__ import annotations

from torch import Tensor

from lorica.errors import StateError


def for_batch(strength: Tensor, batch: int, guidance: int | None = None) -> Tensor:
    """Return one row of strengths for each row of a batch; strengths that are the same for all samples as they are.

    A batch may be several times as long as the list of samples. First the whole list is repeated ``guidance`` times
    (the unconditional half stands before the conditional one), then each row is repeated in its place (several
    pictures a prompt, and the frames of a video that are merged into the batch).

    Args:
        strength: ``(1 or samples, R)``.
        batch: how many rows the layer got.
        guidance: how often the list stands in the batch; None stands for 2 if the batch is an even multiple of the
            list, and 1 otherwise.

    Raises:
        StateError: if the batch is no multiple.
    """
    if len(strength) == 1:
        return strength
    halves, times = spread(len(strength), batch, guidance)
    return strength.repeat(halves, 1).repeat_interleave(times, dim=0) if batch > len(strength) else strength


def spread(samples: int, batch: int, guidance: int | None = None) -> tuple[int, int]:
    """Return how often the list of samples stands in a batch, and how often each row is repeated in its place.

    Raises:
        StateError: if the batch is no multiple.
    """
    times, rest = divmod(batch, samples)
    if rest or not times:
        raise StateError(
            f"strengths were set for {samples} samples, but a layer got a batch of {batch}, which is no multiple "
            "of it. Give per_sample one entry for each prompt."
        )
    given = guidance or 2 - times % 2
    halves = given if times % given == 0 else 1
    return halves, times // halves
