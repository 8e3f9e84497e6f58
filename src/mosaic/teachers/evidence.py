"""What a round knows beside the experts: prototypes, generated images, the owners' models."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from mosaic.messages import StateDict
from mosaic.nets.classifier import Classifier
from mosaic.nets.gates import MeanGate
from mosaic.nets.prototype_classifier import PrototypeClassifier
from mosaic.nets.teacher import ExpertsAndMixtures, FeatureExperts, ImageExperts, MixtureOfExperts
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.experts import Experts
from mosaic.server.generators import GeneratedImages, GeneratorMixture
from mosaic.server.uploads import KeptUploads
from mosaic.teachers.answers import ask_owners, ask_teacher
from mosaic.teachers.fitting import FitSettings, fit, fit_prototype_classifier, join_prototypes


@dataclass(frozen=True)
class Evidence:
    """What a teacher can be formed from, in one round.

    Attributes:
        model: the averaged model, whose features count.
        uploads: the clients' models, as far as they are kept.
        images: the clients' generators.
        image_count: generated images that a gate is trained on, where it is trained on such.
        prior_removed: whether the experts' training has taken the label prior out of their answers already.
        cohort: the clients of the round, who are asked for prototypes.
        context: of the round.
    """

    model: StateDict
    uploads: KeptUploads
    images: GeneratorMixture
    image_count: int
    prior_removed: bool
    cohort: Cohort
    context: RoundContext
    _opinions: dict[bool, nn.Module] = field(default_factory=dict, init=False)

    @cached_property
    def trunk(self) -> Classifier:
        """The averaged model as a network."""
        return self.context.blueprint.build(self.model)

    def log_prior(self, experts: Experts) -> Tensor:
        """Return what is taken out of the experts' opinions, shape ``(E, C)``."""
        return experts.log_prior(self.prior_removed)

    def opinions(self, experts: Experts, heads_only: bool) -> nn.Module:
        """Return what maps pixels ``(B, channels, H, W)`` to the experts' logits ``(B, E, C)``."""
        if heads_only not in self._opinions:
            self._opinions[heads_only] = self._of_heads(experts) if heads_only else self._of_networks(experts)
        return self._opinions[heads_only]

    def _of_heads(self, experts: Experts) -> FeatureExperts:
        return FeatureExperts(self.trunk, experts.heads)

    def _of_networks(self, experts: Experts) -> nn.Module:
        phases = self.context.phases
        networks = ImageExperts(experts.models, phases.precision)
        return networks.to(memory_format=torch.channels_last) if phases.channels_last else networks

    def observe(self, experts: Experts, heads_only: bool, *mixtures: MixtureOfExperts) -> None:
        """Measure every expert, their plain mean and these mixtures, with one pass of the experts over the images."""
        opinions = self.opinions(experts, heads_only)
        together = ExpertsAndMixtures(opinions, [MixtureOfExperts(opinions, MeanGate()), *mixtures])
        names = (f"expert: {name}" for name in experts.names)
        self.context.observe(together, *names, "plain ensemble", *("gated teacher" for _ in mixtures))

    @cached_property
    def prototypes(self) -> tuple[Tensor, Tensor]:
        """The clients' prototypes in the averaged model's features, shape ``(P, F)``, and labels ``(P,)``; asked once.

        Raises:
            MissingPrototypesError: there is none.
        """
        return join_prototypes(self.cohort.prototypes(self.model))

    @torch.no_grad()
    def opinions_on_prototypes(self, experts: Experts) -> tuple[Tensor, Tensor]:
        """Return what the experts' heads say of the prototypes, shape ``(P, E, C)``, and the true classes ``(P,)``."""
        prototypes, labels = self.prototypes
        return self._of_heads(experts).from_features(prototypes), labels

    def opinions_on_images(self, experts: Experts, heads_only: bool) -> tuple[Tensor, Tensor]:
        """Return what the experts say of generated images, shape ``(M, E, C)``, and their supposed classes ``(M,)``.

        Where the generators do not know the classes of their images, the owners' models say them.
        """
        source = self.images.draw(
            self.context.phases.dry_run.batch(self.image_count), self.context.generator_for("gate/images")
        )
        labels = source.labels if self.images.conditional else self.owners_answer(source).argmax(-1)
        return ask_teacher(self.opinions(experts, heads_only), source.images).cpu(), labels.cpu()

    def owners_answer(self, source: GeneratedImages) -> Tensor:
        """Return what each image's owner says of it, shape ``(M, C)``."""
        return ask_owners(self._owners, source, self.images.class_counts)

    @cached_property
    def _owners(self) -> dict[int, Classifier]:
        """The owner's model of every generator, by its place among them."""
        models, pool = {reply.client: reply.model for reply in self.uploads.replies}, self.context.pool
        return {row: pool.of(client).build(models[client]) for row, client in enumerate(self.images.clients)}

    def fit_gate(self, gate: nn.Module, opinions: Tensor, labels: Tensor, settings: FitSettings) -> nn.Module:
        """Train a gate on opinions of known classes; return it frozen."""
        context, classes = self.context, self.context.blueprint.num_classes
        with context.timed("gate"):
            trained, curves = fit(gate, opinions, labels, classes, settings, context.phases, context.seed_for("gate"))
        context.record_curves("gate", curves)
        return trained

    def prototype_classifier(self, settings: FitSettings) -> PrototypeClassifier:
        """Train a classifier on the clients' prototypes, and measure it."""
        context = self.context
        prototypes, labels = self.prototypes
        with context.timed("gate"):
            classifier, curves = fit_prototype_classifier(
                self.trunk, prototypes, labels, settings, context.phases, context.seed_for("gate")
            )
        context.record_curves("gate", curves)
        context.observe(classifier.linear_part(), "prototype head")
        context.observe(classifier, "prototype classifier")
        return classifier
