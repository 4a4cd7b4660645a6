"""What differs between families of models: how to load, encode, noise and predict. Everything else is the one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

Conditioning = Mapping[str, Tensor]  # what the model is told besides noise and time; rows are samples, ``(b, ...)``
# ``predict`` also finds ``sizes`` there, ``(b, 6)``: the rows of :class:`lorica.data.buckets.SizeConditioning`


class Identities(NamedTuple):
    """Digests: of all that latents depend on, of all that text states depend on, of the model that is trained."""

    pictures: str
    text: str
    model: str


class Weighting(NamedTuple):
    """How much the loss of a sample counts: a name in ``RULES``, and where the min-SNR rules level off."""

    rule: str
    gamma: float = 5.0


class Latents(NamedTuple):
    """What the autoencoder says of a picture: a normal distribution, mean and spread ``(c, h, w)``, float32."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSettings:
    """What a run asks of a recipe.

    Args:
        device: where it is trained.
        dtype: the precision of what is not trained.
        train_text_encoder: adapt the text encoder too.
        prediction_type: what is predicted, if not what the model's scheduler says.
        weighting: how the loss counts at each noise level; None for equally.
        least_time: no timestep below it is drawn.
        most_time: none from it on is drawn; None for all.
        zero_terminal_snr: rescale the noise schedule so that nothing of the picture is left at its end.
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
    """How preview pictures are made: the first picture from ``seed``, the next from ``seed + 1``, ..."""

    prompts: Sequence[str]
    seed: int
    steps: int
    guidance: float
    side: int


class Recipe(Protocol):
    """How one family is trained. ``Any`` stands for a diffusers pipeline, whose parts differ between families."""

    name: ClassVar[str]

    def __init__(self, pipeline: Any, settings: RecipeSettings) -> None:
        """Take the parts of a loaded pipeline, move them to the device and freeze them."""
        ...

    @staticmethod
    def fits(pipeline: Any) -> bool:
        """Tell whether this recipe can train that pipeline."""
        ...

    @property
    def components(self) -> Mapping[str, nn.Module]:
        """The networks that get an adapter."""
        ...

    @property
    def side(self) -> int:
        """The side in pixels of the pictures that the model was made for."""
        ...

    @property
    def multiple(self) -> int:
        """What the sides of a picture must be a multiple of."""
        ...

    def with_networks(self, change: Callable[[nn.Module], nn.Module]) -> Recipe:
        """Return a copy of this recipe with every network replaced by what ``change`` makes of it."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Return what an adapter's metadata says about the family (``modelspec.architecture`` and so on)."""
        ...

    def count_tokens(self, caption: str) -> tuple[int, int]:
        """Return how many tokens a caption has, and how many the model reads."""
        ...

    def identify(self) -> Identities:
        """Return the digests of what the encoded pictures and texts depend on, and of the model that is trained."""
        ...

    def encode_text(self, caption: str) -> Conditioning:
        """Return what the model is told of one caption, without the dimension of the batch."""
        ...

    def encode_picture(self, pixels: Tensor) -> Latents:
        """Return the latents of one picture, given ``(3, h, w)`` in -1 to 1."""
        ...

    def release_encoders(self, *, keep_text: bool = False, keep_pictures: bool = False) -> None:
        """Free the device of what training does not need; what is kept goes on encoding texts or pictures."""
        ...

    def sample_time(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` noise levels, ``(b,)``, on the CPU."""
        ...

    def spread_time(self, count: int) -> Tensor:
        """Return ``count`` noise levels spread evenly over the whole schedule, ``(b,)``, on the CPU."""
        ...

    def signal_to_noise(self, time: Tensor) -> Tensor:
        """Return the signal-to-noise ratio at each noise level, ``(b,)``."""
        ...

    def corrupt(self, latents: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy latents and the target the model should predict, both shaped like ``latents``."""
        ...

    def predict(self, noisy: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the model, adapter attached; float32, shaped like ``noisy``."""
        ...

    def weigh(self, time: Tensor) -> Tensor | None:
        """Return the weight of each sample's loss ``(b,)``, or None for equal weights."""
        ...

    def draw(self, sampling: Sampling) -> list[Image.Image]:
        """Make pictures with the model as it is now, one a prompt."""
        ...
