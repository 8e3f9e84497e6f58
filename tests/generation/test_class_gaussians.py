"""What Gaussians learn from a client's images, and what they do not tell of them."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mosaic.data import SklearnDigits
from mosaic.errors import MosaicError
from mosaic.generation import ClassGaussians
from mosaic.generation.base import NoGeneratorError, OwnImages
from mosaic.nets import SmallCNN

DIGITS = SklearnDigits().load()


def own_images(pixels: Tensor, labels: Tensor, classes: int = 10) -> OwnImages:
    """Images as a client shows them; there is nothing to train on."""
    counts = torch.bincount(labels, minlength=classes)

    def train(*_: object) -> dict[str, Tensor]:
        raise AssertionError("Gaussians are not trained")

    guide = SmallCNN((pixels.shape[1], 8, 8), classes)
    return OwnImages(lambda: pixels, labels, counts, counts / counts.sum(), guide, train, lambda name: 0)


def blobs(random: torch.Generator, *sizes: int, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    """Noise around a grey of its own for each class."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    level = (0.3 + 0.4 * labels / len(sizes))[:, None, None, None]
    return (level + 0.05 * torch.randn(len(labels), *shape, generator=random)).clamp(0, 1), labels


def test_moments_are_those_of_a_reference(random: torch.Generator) -> None:
    """With all coefficients and directions and no shrinkage: mean and covariance of each class."""
    pixels, labels = blobs(random, 400, 300, shape=(1, 4, 4))
    settings = ClassGaussians(coefficients=4, components=16, shrinkage=0.0, diagonal_share=0.0)
    net: Any = settings.fit(own_images(pixels, labels, 2)).generator
    points = net.basis.analyse(pixels)
    for row in (0, 1):
        factor = net.directions.float() @ net.own[row].float()
        assert torch.allclose(net.mean[row].float(), points[labels == row].mean(0), atol=2e-3)
        assert torch.allclose(factor @ factor.T, points[labels == row].T.cov(), atol=3e-5)


@pytest.mark.parametrize(("shrinkage", "share"), [(0.0, 1.0), (1.0, 40 / 48), (5.0, 40 / 80)])
def test_small_classes_lean_on_what_is_common(shrinkage: float, share: float, random: torch.Generator) -> None:
    """The share of the class is n / (n + shrinkage * K), here with 40 of 200 images and so 8 directions."""
    pixels, labels = blobs(random, 40, 160, shape=(1, 4, 4))
    settings = ClassGaussians(coefficients=4, images_per_component=23, shrinkage=shrinkage, diagonal_share=0.0)
    net: Any = settings.fit(own_images(pixels, labels, 2)).generator
    around = net.basis.analyse(pixels) - net.mean.float()[labels]
    along = around @ net.directions.float()[:, :8]
    common, own = along.T @ along / 199, along[:40].T.cov()
    expected = share * own + (1 - share) * common.diag().diag()
    factor = net.own[0, :8, :8].float()
    assert torch.allclose(factor @ factor.T, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("sizes", "rank"), [((17,), 0), ((18,), 1), ((9, 16), 0), ((9, 17), 1), ((9, 26), 1), ((9, 27), 2), ((600,), 20)]
)
def test_directions_are_bounded_by_the_images_that_pay_for_them(
    sizes: tuple[int, ...], rank: int, random: torch.Generator
) -> None:
    """Eight for the mean of each class, then ten for each direction."""
    settings = ClassGaussians(coefficients=8, components=20)
    net: Any = settings.fit(own_images(*blobs(random, *sizes), len(sizes))).generator
    assert int((net.directions.float().norm(dim=0) > 0).sum()) == rank
    assert int((net.own[0].float().norm(dim=0) > 0).sum()) == rank


def test_the_diagonal_turns_directions_to_the_public_axes(random: torch.Generator) -> None:
    own = own_images(*blobs(random, 300), 1)

    def alignment(share: float) -> float:
        net: Any = ClassGaussians(coefficients=4, components=4, diagonal_share=share).fit(own).generator
        return float(net.directions.float().abs().amax(0).min())

    assert alignment(1.0) == 1
    assert alignment(0.8) > alignment(0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda random: (torch.full((9, 1, 8, 8), 0.5), torch.zeros(9, dtype=torch.long)),
        lambda random: blobs(random, 6, 7, shape=(1, 1, 8)),
        lambda random: blobs(random, 6, 7, shape=(3, 8, 2)),
        lambda random: blobs(random, 8),
    ],
    ids=["constant", "one pixel high", "narrow and coloured", "fewest"],
)
def test_unusual_images(make: Callable[[torch.Generator], tuple[Tensor, Tensor]], random: torch.Generator) -> None:
    pixels, labels = make(random)
    settings = ClassGaussians()
    net: Any = settings.fit(own_images(pixels, labels, 2)).generator
    drawn = net(torch.randn(50, net.latent_dim, generator=random), labels[torch.arange(50) % len(labels)])
    assert drawn.shape == (50, *pixels.shape[1:])
    assert drawn.isfinite().all()
    assert float((drawn.mean() - pixels.mean()).abs()) < 0.05


def test_images_that_are_no_numbers_give_no_generator(random: torch.Generator) -> None:
    pixels, labels = blobs(random, 8)
    pixels[3, 0, 2, 2] = torch.nan
    with pytest.raises(NoGeneratorError, match="not finite"):
        ClassGaussians().fit(own_images(pixels, labels, 1))


def test_what_crosses_has_the_agreed_names_shapes_and_types(random: torch.Generator) -> None:
    settings, own = ClassGaussians(coefficients=4, components=3), own_images(*blobs(random, 8, 9), 5)
    state = settings.fit(own).generator.state_dict()
    with torch.device("meta"):
        agreed = settings.build((1, 8, 8), own.class_counts).state_dict()
    assert {name: (value.shape, value.dtype) for name, value in state.items()} == {
        name: (value.shape, value.dtype) for name, value in agreed.items()
    }
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert len(state["mean"]) == 2, "nothing crosses for classes that the client lacks"


def members_found(settings: ClassGaussians, images: int, classes: int) -> dict[str, float]:
    """Attack what crossed of twenty clients that hold digits; return each attack's area under the ROC curve.

    Guessed are members among as many others of the same digits: by the distance to the nearest draw, by what is left
    outside the directions, and by the likelihood of what is inside. Distances are compared within client and class, to
    the attacker's help.
    """
    scores = defaultdict[str, list[float]](list)
    truth: list[int] = []
    for client in range(20):
        random = torch.Generator().manual_seed(client)
        digits = torch.randperm(10, generator=random)[:classes].tolist()
        found = [(DIGITS.train.labels == digit).nonzero().squeeze(1) for digit in digits]
        found = [each[torch.randperm(len(each), generator=random)][: 2 * (images // classes)] for each in found]
        pixels = [DIGITS.train.pixels[each].float() / 255 for each in found]
        held = [len(each) // 2 for each in found]
        own = torch.cat([each[:count] for each, count in zip(pixels, held, strict=True)])
        net: Any = settings.fit(
            own_images(own, torch.arange(classes).repeat_interleave(torch.tensor(held)), classes)
        ).generator
        rank = int((net.directions.float().norm(dim=0) > 0).sum())
        directions = net.directions.float()[:, :rank]
        for row in range(classes):
            drawn = net(torch.randn(1500, net.latent_dim, generator=random), torch.full((1500,), row))
            around = net.basis.analyse(pixels[row]) - net.mean[row].float()
            along, factor = around @ directions, net.own[row, :rank, :rank].float()
            distances = {
                "nearest draw": torch.cdist(pixels[row].flatten(1), drawn.flatten(1)).amin(1),
                "outside": (around - along @ directions.T).norm(dim=1),
                "inside": torch.linalg.solve_triangular(factor, along.T, upper=False).norm(dim=0),
            }
            for attack, distance in distances.items():
                scores[attack] += ((distance.mean() - distance) / distance.std().clamp(min=1e-9)).tolist()
            truth += [1] * held[row] + [0] * (len(pixels[row]) - held[row])
    return {attack: float(roc_auc_score(truth, score)) for attack, score in scores.items()}


@pytest.mark.parametrize(("images", "classes"), [(11, 1), (30, 1), (30, 2), (60, 1), (60, 3)])
def test_members_can_hardly_be_told_from_others(images: int, classes: int) -> None:
    """Without the rules, and with a direction for every five images, they can: the attacks win where they may."""
    assert max(members_found(ClassGaussians(), images, classes).values()) < 0.65
    loose = ClassGaussians(images_per_component=5, images_per_class=1, diagonal_share=0.0)
    assert max(members_found(loose, images, classes).values()) > 0.75


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"components": 0}, "components: expected a number above 0"),
        ({"coefficients": 0}, "coefficients: expected a number above 0"),
        ({"shrinkage": -1}, "shrinkage: expected"),
        ({"diagonal_share": 1.5}, "diagonal_share: expected"),
        ({"images_per_component": 1}, "images_per_component: expected at least 2"),
        ({"images_per_class": 0}, "images_per_class: expected a number above 0"),
    ],
)
def test_refused(setting: dict[str, int], says: str) -> None:
    with pytest.raises(MosaicError, match=f"algorithm.generation.{says}"):
        ClassGaussians(**setting)  # type: ignore[arg-type]


def test_a_lowered_number_of_directions_is_said_once(random: torch.Generator, caplog: pytest.LogCaptureFixture) -> None:
    settings = ClassGaussians(components=61, images_per_component=13)
    with caplog.at_level("INFO"):
        settings.fit(own_images(*blobs(random, 40, 40), classes=2))
        settings.fit(own_images(*blobs(random, 30, 30), classes=2))
    (line,) = caplog.messages
    assert "80 images are too few for all 61 directions" in line
    assert "it learns 4, and one more" in line


@pytest.mark.parametrize("key", ["components", "coefficients", "images_per_class"])
def test_settings_that_count_are_whole_numbers(key: str) -> None:
    with pytest.raises(MosaicError, match=rf"algorithm\.generation\.{key}: expected a whole number, got 2.5"):
        ClassGaussians(**{key: 2.5})
