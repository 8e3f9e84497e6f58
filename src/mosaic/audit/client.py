"""Audit one client: attack each of its uploads, and report what it reveals about the client's images."""

import hashlib
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mosaic.audit.attacks import (
    comparable,
    joined,
    latent_search,
    losses,
    matched_filter,
    nearest_draw,
    nearest_prototype,
    success,
    within_classes,
)
from mosaic.audit.finding import CLASSIFIER, GENERATOR, PROTOTYPES, RELEASE, SEARCH, Finding
from mosaic.codec import encode
from mosaic.data.images import Images
from mosaic.generation.base import Generation
from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.messages import (
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.nets.image_generator import ImageGenerator
from mosaic.nets.inference import predict, to_pixels
from mosaic.privacy.accounting import MEANS, MOMENTS, PrivacyBudget
from mosaic.privacy.release import PublicFeatures, Release

MOST_MEMBERS, MOST_OTHERS, DRAWS, REFERENCES = 500, 1000, 1000, 3


class ClientAudit:
    """Sees what one client is asked and answers, and attacks that.

    Args:
        client: its number.
        members: images that it trains on.
        others: images that it does not train on; those of other classes are left out.
        pool: which client runs which model.
        generation: how its generator is rebuilt.
        seed: of choices and noise.
        budget: of differential privacy, where there is one.
    """

    def __init__(
        self,
        client: int,
        members: Images,
        others: Images,
        pool: ModelPool,
        generation: Generation,
        seed: int,
        budget: PrivacyBudget | None = None,
    ) -> None:
        self._budget = budget
        self.client, self._pool, self._generation, self._seed = client, pool, generation, seed
        self._members, self._others = matched(members, others, torch.Generator().manual_seed(seed))
        self._pixels = torch.cat([self._members.pixels, self._others.pixels])
        self._labels = torch.cat([self._members.labels, self._others.labels])
        self._scores: dict[str, tuple[Tensor, Tensor]] = {}  # with the images that each can be about
        self._looks: dict[bytes, tuple[Tensor, Tensor]] = {}  # by what was asked, which may be given again
        self._before: Tensor | None = None
        self._learnt = torch.zeros(0, dtype=torch.bool)
        self.generator: ImageGenerator | None = None

    def see(self, request: Request, reply: Reply) -> None:
        """Take note of one answer, where there are other images to compare with."""
        if len(self._others) == 0:
            return
        match request, reply:
            case TrainRequest(model=received), TrainReply(model=uploaded):
                if self._before is None:
                    self._before = self._losses(received)
                if (after := self._losses(uploaded)) is not None and self._before is not None:
                    self._scores[CLASSIFIER] = self._before - after, torch.ones_like(self._labels, dtype=torch.bool)
            case PrototypeRequest(model=model), PrototypeReply(prototypes=prototypes, labels=labels):
                net = self._pool.blueprint.build(model)
                features = predict(net, self._pixels, torch.device("cpu"), ask=net.features)
                score = nearest_prototype(features, self._labels, prototypes, labels)
                asked = hashlib.sha256(encode(request)).digest()
                self._looks[asked] = score, torch.isin(self._labels, labels)
                self._scores[PROTOTYPES] = joined(list(self._looks.values()))
            case ReleaseRequest(), ReleaseReply(counts=counts, sums=sums, moments=moments) if self._budget is not None:
                self._scores[RELEASE] = self._match(Release(counts, sums, moments), self._budget)
            case GeneratorRequest(), GeneratorReply(generator=state, class_counts=counts):
                self._learnt = counts[self._labels] > 0
                self.generator = self._generation.build(self._pool.blueprint.image_shape, counts)
                self.generator.load_state_dict(state)
                self.generator.eval().requires_grad_(False)

    def findings(self, references: Sequence[ImageGenerator]) -> list[Finding]:
        """Attack all that was uploaded.

        Args:
            references: generators of other clients, by which an attacker tells hard images from members.

        Returns:
            What each attack finds; nothing where there are no other images of the client's classes.
        """
        scores = dict(self._scores)
        if self.generator is not None:
            random = torch.Generator().manual_seed(self._seed)
            nearest = nearest_draw(self.generator, self._pixels, self._labels, DRAWS, random)
            scores[GENERATOR] = nearest, self._learnt
            scores[SEARCH] = self._search(references[:REFERENCES]), self._learnt
        found = (self._finding(attack, *scored) for attack, scored in scores.items())
        return [each for each in found if each is not None]

    def _match(self, release: Release, budget: PrivacyBudget) -> tuple[Tensor, Tensor]:
        assert isinstance(self._generation, ClassGaussians), "only these are made of sums"
        features = PublicFeatures.of(self._pool.blueprint, self._generation.coefficients)
        noise = [budget.mechanisms[name].noise if name in budget.mechanisms else torch.inf for name in (MEANS, MOMENTS)]
        encoded = features.encode(to_pixels(self._pixels))
        score = matched_filter(release, encoded, self._labels, (noise[0], noise[1]))
        return score, torch.ones_like(self._labels, dtype=torch.bool)

    def _search(self, references: Sequence[ImageGenerator]) -> Tensor:
        assert self.generator is not None
        search = partial(latent_search, pixels=self._pixels, labels=self._labels)
        usual = [search(each) for each in references]
        return search(self.generator) - (torch.stack(usual).mean(0) if usual else 0.0)

    def _finding(self, attack: str, score: Tensor, about: Tensor) -> Finding | None:
        """Compare members with others; nothing where there are none of the classes that an upload is about."""
        member = torch.arange(len(score)) < len(self._members)
        score = within_classes(comparable(score), self._labels)
        members, others = score[member & about], score[~member & about]
        if len(members) == 0 or len(others) < 2:
            return None
        found, null = success(members, others), success(others[::2], others[1::2])
        return Finding(self.client, attack, len(members), len(others), found.auc, found.rate, null.auc)

    def _losses(self, model: StateDict) -> Tensor | None:
        """Return the loss of each image; nothing where the server lacks a part of the model."""
        blueprint = self._pool.of(self.client)
        if model.keys() != blueprint.shapes.keys():
            return None
        return losses(blueprint.build(model), self._pixels, self._labels)


def matched(members: Images, others: Images, random: torch.Generator) -> tuple[Images, Images]:
    """Return some members of the classes that others have too, and others whose classes have the members' shares."""
    both = torch.isin(members.labels, others.labels).nonzero().flatten()
    members = members.at(both[torch.randperm(len(both), generator=random)[:MOST_MEMBERS]])
    held = members.labels.bincount()
    there = others.labels.bincount(minlength=len(held))[: len(held)]
    times = min(float((there / held)[held > 0].min()), MOST_OTHERS / len(members)) if len(members) else 0.0
    shuffled = torch.randperm(len(others), generator=random)
    chosen = [shuffled[:0]] + [
        shuffled[others.labels[shuffled] == label][: max(1, int(times * held[label]))]
        for label in held.nonzero().flatten()
    ]
    return members, others.at(torch.cat(chosen))
