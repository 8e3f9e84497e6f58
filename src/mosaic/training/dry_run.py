"""A dry run (``--trainer.fast_dev_run true``): one round in which every phase is as short as possible."""

from dataclasses import dataclass

from torch import Tensor

IMAGES, EXPERTS, CLIENTS = 8, 4, 2


@dataclass(frozen=True)
class DryRun:
    """The limits of a dry run; without ``on`` it is false and limits nothing."""

    on: bool

    def __bool__(self) -> bool:
        return self.on

    @property
    def most_images(self) -> int | None:
        """The largest number of images that a model is evaluated on; ``None`` means all."""
        return IMAGES if self.on else None

    @property
    def most_experts(self) -> int | None:
        """The largest number of experts; ``None`` means all."""
        return EXPERTS if self.on else None

    def steps(self, steps: int) -> int:
        """Limit a phase to one step."""
        return min(steps, 1) if self.on else steps

    def batch(self, batch_size: int) -> int:
        """Limit a batch to eight images."""
        return min(batch_size, IMAGES) if self.on else batch_size

    def images(self, images: Tensor) -> Tensor:
        """Keep the first eight images, or their first eight indices."""
        return images[: self.most_images]

    def clients(self, clients: tuple[int, ...]) -> tuple[int, ...]:
        """Keep the first two clients of a round."""
        return clients[:CLIENTS] if self.on else clients
