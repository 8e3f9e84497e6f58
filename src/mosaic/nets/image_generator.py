"""The interface of all generators of images, and mixtures of them."""

from abc import abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """Turns noise, and target labels if it is conditional, into images.

    Attributes:
        latent_dim: length of the noise vector of one image.
        conditional: whether images depend on target labels.
    """

    latent_dim: int
    conditional: bool

    @abstractmethod
    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images.

        Args:
            noise: standard normal, shape ``(B, latent_dim)``.
            labels: target classes, shape ``(B,)``; needed by a conditional generator, ignored by others.

        Returns:
            Pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        """


class MixedGenerator(ImageGenerator):
    """Several generators, all conditional or none; of n, the i-th makes every n-th image from the i-th on."""

    def __init__(self, parts: Iterable[ImageGenerator]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.latent_dim = max(part.latent_dim for part in self._typed())
        self.conditional = all(part.conditional for part in self._typed())

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images in turn; see :class:`ImageGenerator`."""
        turns = len(self.parts)
        made = [
            part(noise[turn::turns, : part.latent_dim], None if labels is None else labels[turn::turns])
            for turn, part in enumerate(self._typed())
        ]
        images: Tensor = made[0].new_empty(len(noise), *made[0].shape[1:])
        for turn, share in enumerate(made):
            images[turn::turns] = share
        return images

    def _typed(self) -> Iterable[ImageGenerator]:
        return (part for part in self.parts if isinstance(part, ImageGenerator))
