"""Attacks on uploads: they win where they must, and find nothing where there is nothing."""

from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mosaic.audit.attacks import (
    joined,
    latent_search,
    matched_filter,
    nearest_draw,
    nearest_prototype,
    success,
    within_classes,
)
from mosaic.audit.client import ClientAudit, matched
from mosaic.audit.finding import CLASSIFIER, PROTOTYPES, SEARCH
from mosaic.data import Images, SklearnDigits
from mosaic.generation import ClassGaussians
from mosaic.messages import (
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    TrainReply,
    TrainRequest,
)
from mosaic.nets import SmallCNN
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.image_generator import ImageGenerator, MixedGenerator
from mosaic.nets.inference import to_pixels
from mosaic.privacy.accounting import Mechanism
from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import PublicFeatures, noisy, whole_sums
from tests.cases import for_each
from tests.small_runs import LinearNet, same_models

DIGITS = SklearnDigits().load()
BLUEPRINT = Blueprint(partial(SmallCNN, width=4), (1, 8, 8), 10, (0.3,), (0.4,))


class Copies(ImageGenerator):
    """Repeats the images that it was given, of the wanted class, or of any."""

    latent_dim = 4

    def __init__(self, pixels: Tensor, labels: Tensor, conditional: bool = True) -> None:
        super().__init__()
        self.conditional, self._pixels, self._labels = conditional, pixels.float() / 255, labels

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if not self.conditional or labels is None:
            return self._pixels[torch.arange(len(noise)) % len(self._pixels)]
        own = [self._pixels[self._labels == label] for label in labels]
        return torch.stack([images[place % len(images)] for place, images in enumerate(own)])


class Linear(ImageGenerator):
    """Draws what lies in the span of one direction for each image that it was given."""

    conditional = True

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.latent_dim, self._pixels = len(pixels), pixels.float() / 255

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.einsum("bk,kchw->bchw", noise, self._pixels)


@pytest.mark.parametrize("count", [99, 100, 150, 199])
def test_by_chance_one_per_cent_are_found_whatever_the_number_of_others(count: int, random: torch.Generator) -> None:
    draw = partial(torch.randn, generator=random)
    rates = [success(draw(500), draw(count)).rate or 0 for _ in range(800)]
    error = float(torch.tensor(rates).std()) / len(rates) ** 0.5
    assert sum(rates) / len(rates) == pytest.approx(0.01, abs=4 * error)
    assert 4 * error < 0.0025


def test_few_others_have_no_one_per_cent() -> None:
    """Above the highest of 20 others lie 5 % of the members by chance."""
    assert success(torch.ones(5), torch.arange(98) / 98).rate is None
    assert success(torch.ones(5), torch.arange(99) / 99).rate == 1
    assert success(torch.zeros(5), torch.zeros(99)).rate == 0, "and ties do not count"


def split(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels and labels of digits, of which the first half are members."""
    return DIGITS.train.pixels[: 2 * count], DIGITS.train.labels[: 2 * count], torch.arange(2 * count) < count


def test_success_is_the_area_under_the_curve_and_the_rate_at_one_per_cent(random: torch.Generator) -> None:
    members, others = torch.randn(400, generator=random) + 1, torch.randn(600, generator=random)
    truth, scores = [1] * 400 + [0] * 600, torch.cat([members, others]).tolist()
    found = success(members, others)
    assert found.auc == pytest.approx(roc_auc_score(truth, scores))
    threshold = others.sort(descending=True).values[6]  # six of 600 lie above it
    assert found.rate == pytest.approx(float((members > threshold).float().mean()), abs=0.005)


@pytest.mark.parametrize(("members", "auc"), [([1.0, 1.0], 0.5), ([2.0, 2.0], 1.0), ([0.0, 0.0], 0.0)])
def test_success_at_its_ends(members: list[float], auc: float) -> None:
    assert success(torch.tensor(members), torch.tensor([1.0, 1.0, 1.0])).auc == auc


def test_scores_are_compared_within_classes() -> None:
    scores, labels = torch.tensor([10.0, 12.0, -5.0, -7.0, 3.0]), torch.tensor([0, 0, 2, 2, 1])
    assert within_classes(scores, labels).tolist() == [-1, 1, 1, -1, 0]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_generator_that_copies_gives_its_images_away(conditional: bool, random: torch.Generator) -> None:
    pixels, labels, member = split(60)
    copies = Copies(pixels[member], labels[member], conditional)
    score = nearest_draw(copies, pixels, labels, 100, random)
    assert success(score[member], score[~member]).auc > 0.99
    other = Copies(DIGITS.train.pixels[500:560], DIGITS.train.labels[500:560], conditional)
    score = nearest_draw(other, pixels, labels, 100, random)
    assert 0.35 < success(score[member], score[~member]).auc < 0.65


@pytest.mark.parametrize("mixed", [False, True])
def test_the_search_finds_what_a_generator_can_draw(mixed: bool) -> None:
    pixels, labels, member = split(20)
    generator: ImageGenerator = Linear(pixels[member])
    if mixed:
        generator = MixedGenerator([Linear(DIGITS.train.pixels[500:503]), generator])
    score = latent_search(generator, pixels, labels)
    assert success(score[member], score[~member]).auc > 0.95


def test_a_prototype_of_one_image_gives_it_away(random: torch.Generator) -> None:
    features, labels = torch.randn(40, 8, generator=random), torch.arange(40) % 2
    score = nearest_prototype(features, labels, features[:10], labels[:10])
    assert success(score[:10], score[10:]).auc == 1
    nothing = nearest_prototype(features, labels, features[:0], labels[:0])
    assert success(nothing[:10], nothing[10:]).auc == 0.5


def test_two_looks_tell_more_than_one(random: torch.Generator) -> None:
    """Each in its own units, about the images that it can be about."""
    member, everything = torch.arange(2000) < 1000, torch.ones(2000, dtype=torch.bool)
    one, other = (member + 2 * torch.randn(2000, generator=random) for _ in range(2))
    alone, together = (
        roc_auc_score(member, score) for score in (one, joined([(one, everything), (1e6 * other, everything)])[0])
    )
    assert together > alone + 0.03
    half = torch.arange(2000) % 2 == 0
    unknown = torch.where(half, one, -torch.inf)
    score, about = joined([(unknown, half), (unknown, half)])
    assert torch.equal(about, half)
    assert torch.equal(score[half].argsort(), one[half].argsort())
    assert score[~half].eq(0).all()


def test_others_have_the_members_classes_in_their_shares(random: torch.Generator) -> None:
    def images(*counts: int) -> Images:
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return Images(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)

    members, others = matched(images(30, 10, 0, 4), images(60, 100, 50), random)
    assert members.labels.bincount().tolist() == [30, 10]  # nobody else has the last class
    assert others.labels.bincount().tolist() == [60, 20]


@pytest.mark.parametrize("part", ["members", "others"])
def test_without_anybody_to_compare_there_is_nothing(part: str, random: torch.Generator) -> None:
    some, none = (Images(DIGITS.train.pixels[:n], DIGITS.train.labels[:n]) for n in (5, 0))
    given: Any = (none, some) if part == "members" else (some, none)
    assert [len(each) for each in matched(*given, random)] == [0, 0]
    audit = ClientAudit(0, *given, same_models(BLUEPRINT, 1), ClassGaussians(), seed=0)
    net = SmallCNN((1, 8, 8), 10, width=4).state_dict()
    audit.see(Mock(spec=TrainRequest, model=net), Mock(spec=TrainReply, model=net))
    assert audit.findings([]) == []


def test_images_whose_loss_has_fallen_since_the_first_model_are_members() -> None:
    """White ones, of black and white images of one pixel; the second round by itself would tell the opposite."""
    white, black = (Images(torch.full((4, 1, 1, 1), value), torch.zeros(4).long()) for value in (255, 0))
    pool = same_models(Blueprint(LinearNet, (1, 1, 1), 2, (0.0,), (1.0,)), 1)
    audit = ClientAudit(0, white, black, pool, ClassGaussians(), seed=0)
    first, uploaded, second = (
        pool.blueprint.initial(0) | {"head.weight": torch.tensor([[weight], [0.0]]), "head.bias": torch.zeros(2)}
        for weight in (0.0, 1.0, 2.0)
    )
    for model in (first, second):
        audit.see(Mock(spec=TrainRequest, model=model), Mock(spec=TrainReply, model=uploaded))
        assert [(each.attack, each.auc) for each in audit.findings([])] == [(CLASSIFIER, 1.0)]


@for_each("broken", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_an_upload_that_has_diverged_tells_nothing_and_takes_nothing_away(broken: float) -> None:
    members, others = (Images(DIGITS.train.pixels[at], DIGITS.train.labels[at]) for at in (slice(40), slice(40, 120)))
    audit = ClientAudit(0, members, others, same_models(BLUEPRINT, 1), ClassGaussians(), seed=0)
    net = SmallCNN((1, 8, 8), 10, width=4).state_dict()
    spoilt = net | {"head.weight": torch.full_like(net["head.weight"], broken)}
    audit.see(Mock(spec=TrainRequest, model=net), Mock(spec=TrainReply, model=spoilt))
    everything = torch.ones_like(audit._labels, dtype=torch.bool)
    audit._scores["other"] = torch.arange(len(everything)).flip(0).float(), everything
    found = {each.attack: each.auc for each in audit.findings([])}
    assert 0 <= found[CLASSIFIER] <= 1
    assert found["other"] > 0.9


def test_one_broken_look_of_several_takes_nothing_away() -> None:
    everything = torch.ones(4, dtype=torch.bool)
    score, _ = joined([(torch.arange(4.0), everything), (torch.full((4,), torch.nan), everything)])
    assert score.argsort().tolist() == [0, 1, 2, 3]
    assert score.isfinite().all()


def test_an_upload_that_is_given_again_counts_once() -> None:
    """A server may ask once more for what it has lost."""
    members, others = (Images(DIGITS.train.pixels[at], DIGITS.train.labels[at]) for at in (slice(40), slice(40, 120)))
    net = SmallCNN((1, 8, 8), 10, width=4).eval()
    features, sizes = net.features(to_pixels(members.pixels)).detach(), torch.ones(9).long()
    parts = (slice(9), slice(9, 18))
    held = [PrototypeReply(0, features[at], members.labels[at], sizes) for at in parts]

    def scores(*rounds: int) -> Tensor:
        audit = ClientAudit(0, members, others, same_models(BLUEPRINT, 1), ClassGaussians(), seed=0)
        for round in rounds:
            audit.see(PrototypeRequest(0, round, net.state_dict()), held[round])
        return audit._scores[PROTOTYPES][0]

    assert torch.equal(scores(0, 1, 0), scores(0, 1))
    assert not torch.equal(scores(0, 1), scores(1))


def test_what_another_clients_generator_draws_as_well_is_no_member() -> None:
    pixels, _, member = split(20)
    members, others = (Images(pixels[own], torch.zeros(20).long()) for own in (member, ~member))
    audit = ClientAudit(0, members, others, same_models(BLUEPRINT, 1), Mock(build=lambda *_: Linear(pixels)), seed=0)
    counts = torch.tensor([20])
    audit.see(Mock(spec=GeneratorRequest), Mock(spec=GeneratorReply, generator={}, class_counts=counts))
    found = {each.attack: each.auc for each in audit.findings([Linear(pixels[~member])])}
    assert found[SEARCH] > 0.95


@pytest.mark.parametrize(("noise", "lowest", "highest"), [(0.0, 0.9, 1.0), (0.05, 0.75, 1.0), (8.0, 0.38, 0.62)])
def test_released_sums_are_attacked_and_enough_noise_leaves_the_attack_at_the_null(
    noise: float, lowest: float, highest: float
) -> None:
    """Noise of 8 is about epsilon 0.5; a client of 60 images, among them few of each class."""
    features = PublicFeatures((1, 8, 8), 8, (0.3,), (0.38,))
    encoded, labels = features.encode(to_pixels(DIGITS.train.pixels[:600])), DIGITS.train.labels[:600]
    exact = whole_sums(encoded[:60], labels[:60], torch.ones(60).double(), 10)
    mechanisms = {name: Mechanism(name, noise) for name in ("counts", "means", "moments")}
    release = noisy(exact, mechanisms, SecretNoise(bytes(range(32))))
    score = within_classes(matched_filter(release, encoded, labels, (noise, noise)), labels)
    assert lowest <= success(score[:60], score[60:]).auc <= highest
