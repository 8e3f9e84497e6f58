"""Mosaic (Liu et al., arXiv 2505.19699): data-free distillation of a mixture of experts into one global model."""

import logging
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

from mosaic.algorithms.base import Algorithm
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import PrototypeSettings
from mosaic.errors import MosaicError, require_at_least_zero, require_positive
from mosaic.messages import StateDict, TrainReply
from mosaic.nets.classifier import Classifier
from mosaic.nets.gates import MeanGate
from mosaic.nets.teacher import FeatureExperts, FusedMixture, ImageExperts, MixtureOfExperts
from mosaic.seeding import seeded
from mosaic.server.aggregation import average
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.experts import ExpertBuilder, ExpertPool, class_experts, client_experts
from mosaic.server.gating import (
    GateSettings,
    build_gate,
    fit_prototype_classifier,
    join_prototypes,
    train_gate,
)
from mosaic.server.image_source import (
    GeneratedImages,
    GeneratorMixture,
    TaughtPool,
    ask_teacher,
    load_generators,
    origin_log_prior,
)
from mosaic.server.state import ServerState
from mosaic.tasks.distillation import DistillationTask
from mosaic.tasks.generation import GenerationSettings

log = logging.getLogger(__name__)
DRY_RUN_EXPERTS = 4
"""A dry run shows that experts can be formed, not that a hundred can."""
ExpertKind = Literal["clients", "class_average"]


@dataclass(frozen=True)
class DistillationSettings:
    """How the student follows the teacher (METHOD section 6).

    Attributes:
        steps: student updates (released: 1500 to 2500).
        batch_size: generated images per update (released: 320).
        pool_size: generated images that are drawn from; the teacher sees each once.
        learning_rate: of Adam (released: 1e-4 for CIFAR-10, 1e-5 for CIFAR-100).
        temperature: t of the soft targets (released: 1).
        alpha: share of the soft targets against pseudo-labels (released: 0.8).
        beta: weight of the Jensen-Shannon divergence (released: 1).
        origin_weight: how much an image's origin counts beside the teacher's logits; 0 ignores it (released).
        origin_epsilon: added to the share that a class has at the origin, before its logarithm counts.
        balanced: whether pseudo-labels are drawn equally often; otherwise images come as generators make them.
        generator_balance: gamma; client i's generator is drawn in proportion to ``n[i]^gamma``.
        freeze_statistics: whether the student's BatchNorm statistics stay as they are (released).
    """

    steps: int = 600
    batch_size: int = 128
    pool_size: int = 6000
    learning_rate: float = 2e-3
    temperature: float = 1.0
    alpha: float = 0.8
    beta: float = 0.0
    origin_weight: float = 0.5
    origin_epsilon: float = 0.01
    balanced: bool = True
    generator_balance: float = 0.5
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "algorithm.distillation"
        require_positive(
            section,
            steps=self.steps,
            batch_size=self.batch_size,
            pool_size=self.pool_size,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
            origin_epsilon=self.origin_epsilon,
        )
        require_at_least_zero(section, alpha=self.alpha, beta=self.beta, origin_weight=self.origin_weight)
        if self.alpha > 1:
            raise MosaicError(f"{section}.alpha: expected a share in [0, 1], got {self.alpha}")


class Mosaic(Algorithm):
    """Collaborative rounds; in a distilling round the server turns the uploads into a teacher and a better model.

    Args:
        objective: what local training minimises.
        generation: how clients train their generators.
        prototypes: how clients summarise their images for the gate.
        experts: ``clients`` takes their models as experts; ``class_average`` forms one expert per class (paper).
        gate: how experts are joined.
        distillation: how the student learns.
        prior_epsilon: images of every class that a client is credited with in its label prior.
    """

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        generation: GenerationSettings = GenerationSettings(),
        prototypes: PrototypeSettings = PrototypeSettings(),
        experts: ExpertKind = "clients",
        gate: GateSettings = GateSettings(),
        distillation: DistillationSettings = DistillationSettings(),
        prior_epsilon: float = 0.01,
    ) -> None:
        if gate.kind in ("transformer", "residual") and gate.space == "images" and not generation.conditional:
            raise MosaicError(
                f"algorithm.gate: a {gate.kind} gate in image space is trained on generated images with known classes, "
                "which unconditional generators do not give: set algorithm.generation.conditional true or "
                "algorithm.gate.space features"
            )
        super().__init__(ClientProgram(objective, generation, prototypes, prior_epsilon))
        self.experts, self.gate, self.distillation = experts, gate, distillation

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run the paper's steps in their order; a round that does not distil is FedAvg's."""
        if not context.plan.distils:
            return replace(state, model=average(cohort.train(state.model), otherwise=state.model))
        fresh = self._without_generator(state, context)
        uploads = list(cohort.train(state.model, keep=fresh))
        state = replace(state, model=average(uploads, otherwise=state.model))
        state = self._collect_generators(state, fresh, cohort, context)
        if not (state.generators and uploads):
            log.warning(
                "round %d: no client has trained or has a generator, so nothing is distilled", context.plan.round
            )
            return state
        experts = self._form_experts(uploads, context)
        teacher = self._form_teacher(state, experts, cohort, context)
        pool = self._synthesise(state, teacher, context)
        student = self._distil(state.model, pool, context)
        return self._accept(state, student, cohort, context)

    @staticmethod
    def _without_generator(state: ServerState, context: RoundContext) -> list[int]:
        """Return the clients of this round that have not uploaded a generator yet."""
        known = {upload.client for upload in state.generators}
        return [client for client in context.plan.clients if client not in known]

    def _collect_generators(
        self, state: ServerState, clients: list[int], cohort: Cohort, context: RoundContext
    ) -> ServerState:
        """Ask these clients for their generators."""
        fresh = cohort.generators(clients)
        for upload in fresh:
            context.recorder.curves(f"generator/{upload.client:02d}", upload.curves)
        uploads = sorted([*state.generators, *fresh], key=lambda upload: upload.client)
        return replace(state, generators=tuple(uploads))

    def _form_experts(self, uploads: list[TrainReply], context: RoundContext) -> ExpertPool:
        """Turn the clients' models into experts and show who knows what."""
        form = class_experts if self.experts == "class_average" else client_experts
        most = DRY_RUN_EXPERTS if context.phases.dry_run else None
        with context.measure("experts"):
            build = ExpertBuilder(context.blueprint, heads_only=self.gate.space == "features")
            experts = form(uploads, build, self.program.prior_epsilon, most)
        context.recorder.heat_map("server/expert_authority", experts.authority, "expert", "class")
        return experts

    def _form_teacher(self, state: ServerState, pool: ExpertPool, cohort: Cohort, context: RoundContext) -> nn.Module:
        """Join the experts with a gate, trained where it needs training."""
        trunk = context.blueprint.build(state.model)
        experts: nn.Module = ImageExperts(pool.models)
        if self.gate.space == "features":
            experts = FeatureExperts(trunk, (cast(nn.Linear, head) for head in pool.models))
        log_prior = pool.log_prior(self.program.objective.adjusts_prior)
        with seeded(context.seed_for("gate/init")):
            gate = build_gate(self.gate, pool, log_prior)
        match self.gate.kind:
            case "fusion":
                teacher: nn.Module = FusedMixture(experts, self._fit_meta(trunk, cohort, context), gate)
            case "prior":
                teacher = MixtureOfExperts(experts, gate)
            case "transformer" | "residual":
                teacher = MixtureOfExperts(experts, self._fit_gate(gate, experts, state, cohort, context))
        context.observe("global before distillation", trunk)
        context.observe("expert", experts, pool.names)
        context.observe("plain ensemble", MixtureOfExperts(experts, MeanGate()))
        if isinstance(teacher, FusedMixture):
            context.observe("prototype classifier", teacher.meta)
        context.observe("gated teacher", teacher)
        return teacher

    def _fit_meta(self, trunk: Classifier, cohort: Cohort, context: RoundContext) -> nn.Module:
        """Train the fusion gate's meta model on the clients' prototypes."""
        prototypes, labels = join_prototypes(cohort.prototypes(trunk.state_dict()))
        with context.measure("gate"):
            meta, curves = fit_prototype_classifier(
                trunk, prototypes, labels, self.gate, context.phases, context.seed_for("gate")
            )
        context.recorder.curves("gate", curves)
        return meta

    def _fit_gate(
        self, gate: nn.Module, experts: nn.Module, state: ServerState, cohort: Cohort, context: RoundContext
    ) -> nn.Module:
        """Train a gate on expert opinions with known classes, in the space in which it will be used."""
        if isinstance(experts, FeatureExperts):
            prototypes, labels = join_prototypes(cohort.prototypes(state.model))
            with torch.no_grad():
                opinions = experts.from_features(prototypes)
        else:
            source = self._draw(state, self.distillation.pool_size, "gate/images", context)
            opinions, labels = ask_teacher(experts, source.images).cpu(), source.labels.cpu()
        seed, classes = context.seed_for("gate"), context.blueprint.num_classes
        with context.measure("gate"):
            trained, curves = train_gate(gate, opinions, labels, classes, self.gate, context.phases, seed)
        context.recorder.curves("gate", curves)
        return trained

    def _synthesise(self, state: ServerState, teacher: nn.Module, context: RoundContext) -> TaughtPool:
        """Make the pool of images and ask the teacher about each, in the light of where it comes from."""
        settings = self.distillation
        with context.measure("synthesis"):
            source = self._draw(state, settings.pool_size, "distillation/images", context)
            logits = ask_teacher(teacher, source.images)
            if settings.origin_weight > 0:
                counts = torch.stack([upload.class_counts for upload in state.generators])
                conditional = self.program.generation.conditional
                origin = origin_log_prior(source, counts, conditional, settings.origin_epsilon)
                logits = logits + settings.origin_weight * origin
        for row, upload in enumerate(state.generators):
            context.recorder.images(f"generator/{upload.client:02d}/samples", source.images[source.owners == row][:64])
        return TaughtPool(source.images, logits, settings.balanced)

    def _draw(self, state: ServerState, count: int, phase: str, context: RoundContext) -> GeneratedImages:
        blueprint = context.blueprint
        generators = load_generators(
            state.generators, self.program.generation, blueprint.image_shape, blueprint.num_classes
        )
        mixture = GeneratorMixture(
            state.generators, generators, context.phases.device, self.distillation.generator_balance
        )
        return mixture.draw(context.phases.limit_batch(count), context.generator_for(phase))

    def _distil(self, start: StateDict, pool: TaughtPool, context: RoundContext) -> StateDict:
        """Train a student that starts as the global model on the pool."""
        settings = self.distillation
        student = context.blueprint.build(start)
        task = DistillationTask(
            student,
            settings.temperature,
            settings.alpha,
            settings.beta,
            settings.learning_rate,
            settings.freeze_statistics,
        )
        seed = context.seed_for("distillation")
        batches = pool.batches(
            context.phases.limit_batch(settings.batch_size), context.phases.limit(settings.steps), seed
        )
        with context.measure("distillation"):
            curves = context.phases.run(task, batches, seed)
        context.recorder.curves("distill", curves)
        learnt = student.state_dict()  # before observe() moves the network to the device
        context.observe("student", student)
        return learnt

    def _accept(self, state: ServerState, student: StateDict, cohort: Cohort, context: RoundContext) -> ServerState:
        """Take the student unless the clients' validation images say that it is worse than what it replaces."""
        (old_correct, total), (new_correct, _) = cohort.evaluate(state.model), cohort.evaluate(student)
        old, new = int(old_correct.sum()), int(new_correct.sum())
        if total.sum() == 0:
            log.warning("round %d: no client has validation images, so the student is taken unseen", context.plan.round)
        context.recorder.scalar("server/student_accepted", float(new >= old))
        if new < old:
            log.warning(
                "round %d: the student is refused: clients count %d correct validation images for it, %d for the "
                "model it would replace",
                context.plan.round,
                new,
                old,
            )
            return state
        return replace(state, model=student, distilled=True)
