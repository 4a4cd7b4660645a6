"""What differs between families of models: how to load, encode, noise and predict. Everything else is the one loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

Conditioning = Mapping[str, Tensor]  # inputs of the model besides latents and time; rows are samples, ``(b, ...)``
# ``predict`` also finds ``sizes`` there, ``(b, 6)``: the rows of :class:`lorica.data.buckets.SizeConditioning`


class Identities(NamedTuple):
    """Digests of everything that latents depend on, of everything that text states depend on, and of the model."""

    pictures: str
    text: str
    model: str


class Weighting(NamedTuple):
    """Weight of a sample's loss: a name in ``RULES``, and the SNR at which the min-SNR rules level off."""

    rule: str
    gamma: float = 5.0


class Latents(NamedTuple):
    """Distribution of a picture's latents: normal, mean and standard deviation ``(c, h, w)``, float32."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSettings:
    """Settings that every recipe takes.

    Args:
        device: that of the networks.
        dtype: the precision of what is not trained.
        train_text_encoder: adapt the text encoder too.
        prediction_type: prediction of the model; None for that of its scheduler.
        weighting: weight of the loss by noise level; None for equal weights.
        least_time: the first timestep that is drawn.
        most_time: the first timestep that is no longer drawn; None for all.
        zero_terminal_snr: rescale the noise schedule so that its last step is noise alone.
    """

    device: torch.device
    dtype: torch.dtype
    train_text_encoder: bool = False
    prediction_type: str | None = None
    weighting: Weighting | None = None
    least_time: int = 0
    most_time: int | None = None
    zero_terminal_snr: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Settings of preview pictures, each with a prompt and a seed of its own."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    guidance: float
    side: int
    negative: str | None = None


class Recipe(Protocol):
    """The training of one family. ``Any`` is a diffusers pipeline, whose components differ between families."""

    name: ClassVar[str]
    title: ClassVar[str]  # of the models, for messages

    def __init__(self, pipeline: Any, settings: RecipeSettings) -> None:
        """Take the networks of a loaded pipeline, move them to the device and freeze them."""
        ...

    @staticmethod
    def fits(pipeline: Any) -> bool:
        """Whether this recipe can train that pipeline."""
        ...

    @property
    def components(self) -> Mapping[str, nn.Module]:
        """The networks that get an adapter, by component."""
        ...

    @property
    def side(self) -> int:
        """Side in pixels of the pictures that the model was made for."""
        ...

    @property
    def multiple(self) -> int:
        """Number that the sides of a picture must be a multiple of."""
        ...

    def with_networks(self, change: Callable[[nn.Module], nn.Module]) -> Recipe:
        """Copy of this recipe with ``change(network)`` in place of every network."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Metadata of an adapter that tell the family (``modelspec.architecture`` and so on)."""
        ...

    def count_tokens(self, caption: str) -> tuple[int, int]:
        """Number of tokens of a caption, and the number that the model reads."""
        ...

    def identify(self) -> Identities:
        """Digests of everything that encoded pictures and texts depend on, and of the model that is trained."""
        ...

    def encode_text(self, caption: str) -> Conditioning:
        """Conditioning of one caption, without the batch dimension."""
        ...

    def encode_picture(self, pixels: Tensor) -> Latents:
        """Latents of one picture, given ``(3, h, w)`` in -1 to 1."""
        ...

    def release_encoders(self, *, keep_text: bool = False, keep_pictures: bool = False) -> None:
        """Move the encoders off the device, save those that go on encoding texts or pictures."""
        ...

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` noise levels, ``(b,)``, on the CPU."""
        ...

    def spread_time(self, count: int) -> Tensor:
        """``count`` noise levels spread evenly over the whole schedule, ``(b,)``, on the CPU."""
        ...

    def signal_to_noise(self, time: Tensor) -> Tensor:
        """Signal-to-noise ratio at each noise level, ``(b,)``."""
        ...

    def corrupt(self, latents: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents and the target that the model should predict, both shaped like ``latents``."""
        ...

    def predict(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the model, adapter attached; float32, shaped like ``noisy``."""
        ...

    def weigh(self, time: Tensor) -> Tensor | None:
        """Weight of each sample's loss ``(b,)``, or None for equal weights."""
        ...

    def draw(self, sampling: Sampling) -> list[Image.Image]:
        """Draw pictures with the model as it is now, one a prompt."""
        ...


@contextmanager
def evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Switch networks to evaluation, without dropout, within the ``with`` block."""
    before = [(network, network.training) for network in networks]
    try:
        for network, _ in before:
            network.eval()
        yield
    finally:
        for network, training in before:
            network.train(training)
