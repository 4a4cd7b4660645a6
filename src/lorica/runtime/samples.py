"""Strengths for each sample of a batch, spread over the batches that a pipeline makes of its prompts."""

from __future__ import annotations

from torch import Tensor

from lorica.errors import StateError


def for_batch(strength: Tensor, batch: int, guidance: int | None = None) -> Tensor:
    """Return one row of strengths for each row of a batch.

    A batch may be several times as long as the list of samples. First the whole list is repeated ``guidance`` times
    (the unconditional half stands before the conditional one), then each row is repeated in its place (several
    pictures a prompt, and the frames of a video that are merged into the batch).

    Args:
        strength: ``(samples, R)``.
        batch: how many rows the layer got.
        guidance: how often the list stands in the batch; None stands for 2 if the batch is an even multiple of the
            list, and 1 otherwise.

    Raises:
        StateError: if the batch is no multiple.
    """
    times, rest = divmod(batch, len(strength))
    if rest or not times:
        raise StateError(
            f"strengths were set for {len(strength)} samples, but a layer got a batch of {batch}, which is no multiple "
            "of it. Give per_sample one entry for each prompt."
        )
    halves = guidance if guidance is not None and times % guidance == 0 else 2 - times % 2
    if guidance is None and times == 1:
        halves = 1
    return strength.repeat(halves, 1).repeat_interleave(times // halves, dim=0) if times > 1 else strength
