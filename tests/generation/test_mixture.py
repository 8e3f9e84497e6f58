"""Several kinds of generators as one; and a kind that this package does not know."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mosaic.cli.main import main
from mosaic.errors import MosaicError
from mosaic.generation import Adversarial, ClassGaussians, Generation, Mixture
from mosaic.generation.base import Fitted, OwnImages
from mosaic.nets.classifier import ImageShape
from mosaic.nets.image_generator import ImageGenerator, MixedGenerator
from tests.small_runs import fit_arguments, stages


class Shade(ImageGenerator):
    """Grey images, each class of its own shade, darker by what was learnt."""

    conditional = True

    def __init__(self, image_shape: ImageShape, latent_dim: int = 1) -> None:
        super().__init__()
        self.image_shape, self.latent_dim = image_shape, latent_dim
        self.register_buffer("learnt", torch.zeros(1))
        self.learnt: Tensor

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        assert noise.shape == (len(labels), self.latent_dim)
        return (labels / 10 * self.learnt)[:, None, None, None].expand(-1, *self.image_shape)


class Shades(Generation):
    """A kind of generator from outside: one class, and one line of YAML.

    Args:
        learnt: what there is to learn.
    """

    min_count, conditional = 5, True

    def __init__(self, learnt: float = 0.5) -> None:
        self.learnt = learnt

    def build(self, image_shape: ImageShape, class_counts: Tensor) -> Shade:
        return Shade(image_shape)

    def fit(self, own: OwnImages) -> Fitted:
        generator = Shade((1, 8, 8))
        generator.learnt.fill_(self.learnt)
        return Fitted(generator)


def test_generators_take_turns(random: torch.Generator) -> None:
    light, dark = Shade((1, 2, 2), latent_dim=3), Shade((1, 2, 2))
    light.learnt.fill_(1.0)
    mixed = MixedGenerator([light, dark])
    assert (mixed.latent_dim, mixed.conditional) == (3, True)
    images = mixed(torch.zeros(5, 3), torch.tensor([1, 2, 3, 4, 5]))
    assert images[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0, 0.3, 0, 0.5])


def test_a_mixture_learns_all_of_its_parts_and_is_rebuilt_from_what_crosses() -> None:
    mixture, counts = Mixture([Shades(0.5), Shades(0.25)]), torch.tensor([3, 4])
    own = OwnImages(lambda: torch.zeros(7, 1, 8, 8), torch.zeros(7), counts, counts / 7, None, None, None)  # type: ignore[arg-type]
    fitted = mixture.fit(own).generator
    rebuilt = mixture.build((1, 8, 8), counts)
    rebuilt.load_state_dict(fitted.state_dict())
    noise, labels = torch.zeros(4, 1), torch.tensor([0, 0, 1, 1])
    assert torch.equal(rebuilt(noise, labels), fitted(noise, labels))
    assert rebuilt(noise, labels)[2:, 0, 0, 0].tolist() == pytest.approx([0.05, 0.025])


class Namer(Shades):
    """Learns nothing, and tells which seed it has been given."""

    def fit(self, own: OwnImages) -> Fitted:
        return Fitted(Shade((1, 8, 8)), curves={"loss": torch.tensor([float(own.seed("generator/init"))])})


def test_generators_of_one_kind_draw_different_numbers_and_keep_their_curves() -> None:
    seeds = {"generator/init": 3, "generator/init/2": 5}
    counts = torch.tensor([3, 4])
    own = OwnImages(lambda: torch.zeros(7, 1, 8, 8), torch.zeros(7), counts, counts / 7, None, None, seeds.get)  # type: ignore[arg-type]
    curves = Mixture([Namer(0.5), Shades(0.5), Namer(0.25)]).fit(own).curves
    assert {name: curve.tolist() for name, curve in curves.items()} == {"loss": [3.0], "loss2": [5.0]}


def test_its_settings_follow_from_its_parts() -> None:
    mixture = Mixture([Adversarial(min_count=9, steps=7), ClassGaussians()])
    assert (mixture.min_count, mixture.conditional) == (9, True)


@pytest.mark.parametrize("parts", [[], [ClassGaussians()], [ClassGaussians(), Adversarial(conditional=False)]])
def test_refused(parts: list[Generation]) -> None:
    with pytest.raises(MosaicError, match=r"algorithm\.generation\.parts: expected at least two"):
        Mixture(parts)


def test_gaussians_that_learn_the_same_are_refused_and_others_are_not() -> None:
    with pytest.raises(MosaicError, match="got two ClassGaussians with the same settings"):
        Mixture([ClassGaussians(), ClassGaussians()])
    Mixture([ClassGaussians(), ClassGaussians(components=3)])
    Mixture([Adversarial(), Adversarial()])


def test_a_mixture_in_a_mixture_is_refused() -> None:
    with pytest.raises(MosaicError, match="got a Mixture in a Mixture: put its parts there"):
        Mixture([Adversarial(), Mixture([Adversarial(), ClassGaussians()])])


class Lighter(Adversarial):
    """A GAN of a user's."""


def test_generators_of_one_kind_have_seeds_of_their_own() -> None:
    """Or a GAN and a user's variant of it would begin alike and draw the same noise."""
    parts = [Adversarial(), ClassGaussians(), Lighter(), Adversarial(), ClassGaussians(components=3)]
    assert [Mixture(parts)._earlier_of_its_kind(place) for place in range(len(parts))] == [0, 0, 1, 2, 1]


KINDS = {
    "gaussians": ["--algorithm.generation=ClassGaussians", "--algorithm.generation.components=5"],
    "outside": ["--algorithm.generation=tests.generation.test_mixture.Shades"],
    "mixture": [
        "--algorithm.generation=mosaic.generation.Mixture",
        '--algorithm.generation.parts=[{"class_path":"mosaic.generation.ClassGaussians"},'
        '{"class_path":"mosaic.generation.Adversarial","init_args":{"steps":2,"width":4}}]',
    ],
}


@pytest.mark.parametrize(
    "kind", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("gaussians", "mixture")), "outside"]
)
def test_a_run_takes_generators_of_any_kind(kind: str, tmp_path: Path) -> None:
    arguments = [flag for flag in fit_arguments(tmp_path / "run", "Mosaic") if "generation" not in flag]
    main([*arguments, *KINDS[kind]])
    assert {"gated teacher", "student"} <= stages(tmp_path / "run").keys()
