"""What every model of images looks like to those who draw from it."""

from abc import abstractmethod

from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """Turns noise, and wanted labels where it knows them, into images.

    Attributes:
        latent_dim: length of the noise of one image.
        conditional: whether it heeds wanted labels.
    """

    latent_dim: int
    conditional: bool

    @abstractmethod
    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images.

        Args:
            noise: standard normal, shape ``(B, latent_dim)``.
            labels: wanted classes, shape ``(B,)``; needed by a conditional generator, ignored by others.

        Returns:
            Pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        """
