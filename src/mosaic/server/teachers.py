"""Join experts into a teacher (METHOD section 5), or form one of the controls that a mixture must beat."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from mosaic.messages import StateDict, TrainReply
from mosaic.nets.classifier import Classifier
from mosaic.nets.gates import MeanGate
from mosaic.nets.prototype_classifier import PrototypeClassifier
from mosaic.nets.teacher import (
    FeatureExperts,
    FusedMixture,
    ImageExperts,
    MixtureOfExperts,
    NoOpinion,
    Panel,
    StackedExperts,
)
from mosaic.seeding import seeded
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.distillation import Teacher
from mosaic.server.experts import ExpertPool
from mosaic.server.gating import GateSettings, build_gate, fit_prototype_classifier, join_prototypes, train_gate
from mosaic.server.image_source import GeneratedImages, GeneratorMixture, ask_owners, ask_teacher


@dataclass(frozen=True)
class TeacherMaker:
    """Everything that a teacher can be made of in one round.

    Attributes:
        settings: of the gate.
        model: the averaged model, whose features and prototypes count.
        pool: the experts.
        adjusted: whether the experts' training has taken the label prior out already.
        uploads: the clients' models.
        images: the clients' generators.
        training_images: generated images that a gate is trained on, where it is trained on such.
        cohort: asked for prototypes.
        context: of the round; every stage is observed.
    """

    settings: GateSettings
    model: StateDict
    pool: ExpertPool
    adjusted: bool
    uploads: list[TrainReply]
    images: GeneratorMixture
    training_images: int
    cohort: Cohort
    context: RoundContext

    def make(self) -> Teacher:
        """Return what judges generated images, its gate trained where it needs training."""
        self.context.observe(self._trunk, "global before distillation")
        match self.settings.kind:
            case "owner":
                self._observe()
                return self._ask_owners
            case "labels":
                self._observe()
                return self._ask_nobody
            case "prototypes":
                teacher: nn.Module = self._meta_model()
                self._observe()
                self.context.observe(teacher, "gated teacher")
            case _:
                teacher = mixture = self._mixture()
                self._observe(mixture)
        return lambda source: ask_teacher(teacher, source.images)

    def _observe(self, *teacher: MixtureOfExperts) -> None:
        """Measure every expert, their plain mean, and the teacher, with one pass of the experts over the images."""
        panel = Panel(self._experts, [MixtureOfExperts(self._experts, MeanGate()), *teacher])
        experts = (f"expert: {name}" for name in self.pool.names)
        self.context.observe(panel, *experts, "plain ensemble", *("gated teacher" for _ in teacher))

    def _mixture(self) -> MixtureOfExperts:
        """Return the experts with their gate."""
        with seeded(self.context.seed_for("gate/init")):
            gate = build_gate(self.settings, self.pool, self.pool.log_prior(self.adjusted))
        match self.settings.kind:
            case "fusion":
                meta = self._meta_model() if self.context.pool.kind == "same" else NoOpinion(self._trunk.num_classes)
                return FusedMixture(self._experts, meta, gate)
            case "transformer" | "residual":
                return MixtureOfExperts(self._experts, self._trained(gate))
            case _:
                return MixtureOfExperts(self._experts, gate)

    @cached_property
    def _trunk(self) -> Classifier:
        return self.context.blueprint.build(self.model)

    @cached_property
    def _heads(self) -> FeatureExperts:
        return FeatureExperts(self._trunk, self.pool.heads)

    @cached_property
    def _experts(self) -> nn.Module:
        if self.settings.space == "features":
            return self._heads
        phases = self.context.phases
        if self.context.pool.kind == "same" and phases.stacks_experts:
            return StackedExperts(self.pool.models)
        experts = ImageExperts(self.pool.models, phases.precision)
        return experts.to(memory_format=torch.channels_last) if phases.channels_last else experts

    def _meta_model(self) -> PrototypeClassifier:
        """Train the fusion gate's meta model on the clients' prototypes."""
        context = self.context
        prototypes, labels = join_prototypes(self.cohort.prototypes(self.model))
        with context.measure("gate"):
            meta, curves = fit_prototype_classifier(
                self._trunk, prototypes, labels, self.settings.head, context.phases, context.seed_for("gate")
            )
        context.recorder.curves("gate", curves)
        context.observe(meta.linear_part(), "prototype head")
        context.observe(meta, "prototype classifier")
        return meta

    def _trained(self, gate: nn.Module) -> nn.Module:
        """Train a gate on expert opinions with known classes."""
        context, classes = self.context, self.context.blueprint.num_classes
        opinions, labels = self._on_images() if self.settings.space == "images" else self._on_prototypes()
        with context.measure("gate"):
            trained, curves = train_gate(
                gate, opinions, labels, classes, self.settings.fitting, context.phases, context.seed_for("gate")
            )
        context.recorder.curves("gate", curves)
        return trained

    @torch.no_grad()
    def _on_prototypes(self) -> tuple[Tensor, Tensor]:
        """Return what the experts' heads say of the clients' prototypes, and the true classes."""
        prototypes, labels = join_prototypes(self.cohort.prototypes(self.model))
        return self._heads.from_features(prototypes), labels

    def _on_images(self) -> tuple[Tensor, Tensor]:
        """Return what the experts say of generated images, and what is known of their classes."""
        count = self.context.phases.limit_batch(self.training_images)
        source = self.images.draw(count, self.context.generator_for("gate/images"))
        labels = source.labels if self.images.conditional else self._ask_owners(source).argmax(-1)
        return ask_teacher(self._experts, source.images).cpu(), labels.cpu()

    def _ask_owners(self, source: GeneratedImages) -> Tensor:
        """Let every image be judged by the model of the client that it comes from."""
        return ask_owners(self._owners, source, self.images.class_counts)

    @cached_property
    def _owners(self) -> dict[int, Classifier]:
        """The owner's model of every generator, by its place among them."""
        models, pool = {upload.client: upload.model for upload in self.uploads}, self.context.pool
        return {row: pool.of(client).build(models[client]) for row, client in enumerate(self.images.clients)}

    def _ask_nobody(self, source: GeneratedImages) -> Tensor:
        """Know nothing of an image but what its origin says."""
        return torch.zeros(len(source.images), self.context.blueprint.num_classes, device=source.images.device)
