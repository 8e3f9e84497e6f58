"""Methods by which clients learn generators of their images."""

from mosaic.generation.adversarial import Adversarial
from mosaic.generation.base import Fitted, Generation, OwnImages
from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.generation.mixture import Mixture
from mosaic.nets.image_generator import ImageGenerator

__all__ = ["Adversarial", "ClassGaussians", "Fitted", "Generation", "ImageGenerator", "Mixture", "OwnImages"]
