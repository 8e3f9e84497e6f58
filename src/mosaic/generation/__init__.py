"""Methods by which clients learn generators of their images."""

from mosaic.generation.adversarial import Adversarial
from mosaic.generation.base import Generation
from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.generation.mixture import Mixture

__all__ = ["Adversarial", "ClassGaussians", "Generation", "Mixture"]
