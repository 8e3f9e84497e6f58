"""Mosaic (Liu et al., arXiv 2505.19699): data-free distillation of a mixture of experts into one global model."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mosaic.algorithms.base import Algorithm, require_features, require_linear_head
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import PrototypeSettings
from mosaic.errors import MosaicError
from mosaic.generation import ClassGaussians, Generation
from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import PoolKind
from mosaic.nets.batchnorm import recalibrate
from mosaic.nets.blueprint import Blueprint
from mosaic.server.acceptance import accepts
from mosaic.server.aggregation import average
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.distillation import Teacher, distil
from mosaic.server.experts import ExpertBuilder, ExpertPool, ExpertStatistics, class_experts, client_experts
from mosaic.server.gathering import ClassMeans, KeptUploads, should_fold
from mosaic.server.gating import GateSettings
from mosaic.server.image_source import GeneratorMixture, UploadedGenerators, ask_teacher
from mosaic.server.state import ServerState
from mosaic.server.teachers import TeacherMaker
from mosaic.tasks.distillation import DistillationSettings

log = logging.getLogger(__name__)
DRY_RUN_EXPERTS = 4
"""A dry run shows that experts can be formed, not that a hundred can."""
RECALIBRATION_IMAGES = 1024
"""Generated images on which experts measure their BatchNorm statistics anew."""
SHOWN_IMAGES = 64
"""Samples of every generator in TensorBoard."""
ExpertKind = Literal["clients", "class_average"]


class Mosaic(Algorithm):
    """Collaborative rounds; in a distilling round the server turns the uploads into a teacher and a better model.

    Args:
        objective: what local training minimises (released: cross-entropy).
        generation: how clients learn to make images like their own.
        prototypes: how clients summarise their images for the gate.
        experts: ``clients`` takes their models as experts; ``class_average`` forms one expert per class (paper).
        expert_statistics: how the BatchNorm statistics of class averages come about: ``average`` like weights
            (released); ``pooled`` counts the spread of the clients' means as variance; ``recalibrated`` measures them
            anew on generated images, for client experts too.
        gate: how experts are joined.
        distillation: how the student learns.
        teach_back: whether the models of clients with architectures of their own learn from the accepted global model
            on generated images, on the server; these clients go on with what comes back. Without it they only give.
        prior_epsilon: images of every class that a client is credited with in its label prior (ours: keeps the
            logarithm of classes that it lacks finite).
    """

    supports = frozenset[PoolKind]({"same", "widths", "architectures"})
    heeds = frozenset[str]({"distils"})

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        generation: Generation = ClassGaussians(),
        prototypes: PrototypeSettings = PrototypeSettings(),
        experts: ExpertKind = "clients",
        expert_statistics: ExpertStatistics = "average",
        gate: GateSettings = GateSettings(),
        distillation: DistillationSettings = DistillationSettings(),
        teach_back: bool = False,
        prior_epsilon: float = 0.01,
    ) -> None:
        if expert_statistics != "average" and gate.space == "features":
            raise MosaicError(
                f"algorithm.expert_statistics: {expert_statistics} concerns the experts' bodies, which play no part "
                "with algorithm.gate.space features: use average, or another space"
            )
        if expert_statistics == "pooled" and experts == "clients":
            raise MosaicError(
                "algorithm.expert_statistics: pooled concerns averages of models, which client experts are not: "
                "use average or recalibrated, or algorithm.experts class_average"
            )
        if gate.kind == "labels" and distillation.origin_weight == 0:
            raise MosaicError(
                "algorithm.gate.kind: labels knows nothing of an image but its origin, which "
                "algorithm.distillation.origin_weight 0 ignores: set it to 1"
            )
        if gate.keeps_prior and distillation.origin_weight > 0 and not generation.conditional:
            raise MosaicError(
                "algorithm.distillation.origin_weight: expected 0, since a teacher of algorithm.gate.kind "
                f"{gate.kind} already leans to the classes of an image's owner, got {distillation.origin_weight}: set "
                "it to 0, or algorithm.generation.conditional true, whose labels say more"
            )
        super().__init__(ClientProgram(objective, generation, prototypes, prior_epsilon))
        self.experts, self.expert_statistics = experts, expert_statistics
        self.gate, self.distillation, self.teach_back = gate, distillation, teach_back

    def check_pool(self, kind: PoolKind) -> None:
        """Refuse gates that need one model's features where there is no such model.

        Raises:
            MosaicError: the gate does not fit.
        """
        super().check_pool(kind)
        if kind != "same" and (self.gate.space != "images" or self.gate.kind == "prototypes"):
            raise MosaicError(
                "algorithm.gate: expected a gate in image space, since clients with different models have no features "
                f"in common, got kind {self.gate.kind} in space {self.gate.space}: set algorithm.gate.space images and "
                "algorithm.gate.kind fusion, prior, residual or transformer"
            )
        if kind == "widths" and self.expert_statistics == "pooled":
            raise MosaicError(
                "algorithm.expert_statistics: pooled needs clients that all run the whole network, got sub-models: use "
                "average or recalibrated"
            )
        if self.teach_back and kind != "architectures":
            raise MosaicError(
                "algorithm.teach_back: concerns clients with a model of their own, and there are none: set "
                "clients.models, or leave it false"
            )
        if kind == "architectures" and self.experts == "class_average":
            raise MosaicError(
                "algorithm.experts: different architectures have no class averages: set algorithm.experts clients"
            )

    def check_network(self, blueprint: Blueprint) -> None:
        """Refuse networks without features, where prototypes are asked for, and heads that cannot be taken off.

        Raises:
            MosaicError: the gate needs what the network has not.
        """
        takes_features, takes_head = self.gate.asks_for_prototypes(models_alike=True), self.gate.space != "images"
        if not (takes_features or takes_head):
            return
        net = blueprint.build(blueprint.initial(seed=0))
        if takes_features:
            require_features(net, f"algorithm.gate.kind {self.gate.kind}")
        if takes_head:
            require_linear_head(
                net, f"algorithm.gate.space {self.gate.space}", "give it one, or set algorithm.gate.space images"
            )

    def asks_for_prototypes(self, kind: PoolKind) -> bool:
        """Whether the gate is made of them."""
        return self.gate.asks_for_prototypes(models_alike=kind == "same")

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run the paper's steps in their order; a round that does not distil is FedAvg's."""
        if not context.plan.distils:
            tuned = self._averaged(cohort.train(state.model, returned=state.returned), state, context)
            return self._guard(state, tuned, cohort, context)
        fresh = self._without_generator(state, context)
        gathered = self._gather(state.model, context)
        state = self._averaged(gathered.watch(cohort.train(state.model, fresh, state.returned)), state, context)
        uploads = gathered.uploads
        state = self._collect_generators(state, fresh, cohort, context)
        images = self._mix_generators(state, uploads, context)
        if images is None:
            log.warning("round %d: no generator to make images with, so nothing is distilled", context.plan.round)
            return state
        experts = self._form_experts(state.model, gathered, images, context)
        teacher = self._form_teacher(state.model, experts, uploads, images, cohort, context)
        self._show(images, context)
        student = self._distil(state.model, teacher, images, context)
        if accepts(state.model, student, "student", cohort, context):
            state = replace(state, model=student, distilled=True)
        return self._return(state, uploads, images, context) if self.teach_back and state.distilled else state

    @staticmethod
    def _averaged(replies: Iterable[TrainReply], state: ServerState, context: RoundContext) -> ServerState:
        """Average the uploads; what was on its way back to their clients has arrived."""
        waiting = dict(state.returned)

        def arrived() -> Iterator[TrainReply]:
            for reply in replies:
                waiting.pop(str(reply.client), None)
                yield reply

        model = average(arrived(), state.model, context.pool, context.plan.round)
        return replace(state, model=model, returned=waiting)

    @staticmethod
    def _without_generator(state: ServerState, context: RoundContext) -> list[int]:
        """Return the clients of this round that have not uploaded a generator yet."""
        known = {upload.client for upload in state.generators}
        return [client for client in context.plan.clients if client not in known]

    def _collect_generators(
        self, state: ServerState, clients: list[int], cohort: Cohort, context: RoundContext
    ) -> ServerState:
        """Ask these clients for their generators and show how good each is."""

        def agreed(class_counts: Tensor) -> StateDict:
            with torch.device("meta"):
                blank = self.program.generation.build(context.blueprint.image_shape, class_counts)
            return blank.state_dict()

        fresh = cohort.generators(clients, agreed)
        for upload in fresh:
            context.recorder.curves(f"generator/{upload.client:02d}", upload.curves)
            if upload.metrics["attempts"] > 1:
                log.warning(
                    "round %d: the generator of client %d diverged and was trained once more at a lower rate",
                    context.plan.round,
                    upload.client,
                )
            for name in ("coverage", "nearest_neighbour_ratio"):
                if name in upload.metrics:
                    context.recorder.scalar(f"generator/{upload.client:02d}/{name}", upload.metrics[name])
        uploads = sorted([*state.generators, *fresh], key=lambda upload: upload.client)
        return replace(state, generators=tuple(uploads))

    def _mix_generators(
        self, state: ServerState, uploads: list[TrainReply], context: RoundContext
    ) -> GeneratorMixture | None:
        """Join the generators into one source of images; only those of this round's clients where owners judge."""
        present = {upload.client for upload in uploads}
        usable = [upload for upload in state.generators if upload.client in present or not self._owners_judge]
        if not usable or not uploads:
            return None
        nets = UploadedGenerators(usable, self.program.generation, context.blueprint.image_shape)
        return GeneratorMixture(usable, nets, context.phases.device, self.distillation.generator_balance)

    @property
    def _owners_judge(self) -> bool:
        """Whether generated images are labelled by the models of the clients that they come from."""
        images_without_label = self.gate.space == "images" and not self.program.generation.conditional
        return self.gate.kind == "owner" or (self.gate.trained and images_without_label)

    def _gather(self, sent: StateDict, context: RoundContext) -> KeptUploads | ClassMeans:
        """Decide what becomes of uploads: experts that are averages need not hold the clients' models."""
        if self.experts == "clients":
            return KeptUploads()
        keep: tuple[str, ...] = ()
        if self.expert_statistics == "pooled":
            keep = tuple(f"{layer}.running_" for layer in context.blueprint.batch_norms)
        if self._owners_judge:
            keep = ("",)
        most = DRY_RUN_EXPERTS if context.phases.dry_run else None
        heads_only, counted = self.gate.space == "features", sum(tensor.numel() for tensor in sent.values())
        fold = heads_only or should_fold(counted, context.blueprint.num_classes, len(context.plan.clients))
        return ClassMeans(context.pool, context.plan.round, sent, heads_only, keep, most, fold)

    def _form_experts(
        self, model: StateDict, gathered: KeptUploads | ClassMeans, images: GeneratorMixture, context: RoundContext
    ) -> ExpertPool:
        """Turn the clients' models into experts and show who knows what."""
        with context.measure("experts"):
            heads_only, pooled = self.gate.space == "features", self.expert_statistics == "pooled"
            build, epsilon = ExpertBuilder(context.pool, model, heads_only, pooled), self.program.prior_epsilon
            if isinstance(gathered, ClassMeans):
                experts = class_experts(gathered, build, epsilon)
            else:
                most = DRY_RUN_EXPERTS if context.phases.dry_run else None
                experts = client_experts(gathered.uploads, build, epsilon, most)
            if self.expert_statistics == "recalibrated":
                source = images.draw(RECALIBRATION_IMAGES, context.generator_for("experts/images"))
                shuffled = torch.randperm(len(source.images), generator=context.generator_for("experts/order"))
                for expert in experts.models:
                    recalibrate(expert, source.images[shuffled.to(source.images.device)])
        context.recorder.heat_map("server/expert_authority", experts.authority, "expert", "class")
        return experts

    def _form_teacher(
        self,
        model: StateDict,
        pool: ExpertPool,
        uploads: list[TrainReply],
        images: GeneratorMixture,
        cohort: Cohort,
        context: RoundContext,
    ) -> Teacher:
        """Join the experts with a gate."""
        adjusted, count = self.program.objective.adjusts_prior, self.distillation.pool_size
        return TeacherMaker(self.gate, model, pool, adjusted, uploads, images, count, cohort, context).make()

    @staticmethod
    def _show(images: GeneratorMixture, context: RoundContext) -> None:
        """Show samples of every generator, one after the other: a thousand clients' images are never held at once."""
        random = context.generator_for("samples")
        for row, client in enumerate(images.clients):
            context.recorder.images(f"generator/{client:02d}/samples", images.draw_from(row, SHOWN_IMAGES, random))

    def _distil(self, start: StateDict, teacher: Teacher, images: GeneratorMixture, context: RoundContext) -> StateDict:
        """Train a student that starts as the global model."""
        student = distil(context.blueprint.build(start), teacher, images, self.distillation, context)
        context.observe(context.blueprint.build(student), "student")
        return student

    def _return(
        self, state: ServerState, uploads: list[TrainReply], images: GeneratorMixture, context: RoundContext
    ) -> ServerState:
        """Let the models of clients that keep their own learn from the global one, and send them back."""
        world = context.blueprint.build(state.model)
        returned = dict(state.returned)
        for upload in uploads:
            if context.pool.keeps_own(upload.client):
                own = context.pool.of(upload.client).build(upload.model)
                name = f"teach_back/{upload.client:02d}"
                returned[str(upload.client)] = distil(
                    own, lambda source: ask_teacher(world, source.images), images, self.distillation, context, name
                )
        return replace(state, returned=returned)

    def _guard(self, before: ServerState, after: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Keep the student where sub-models cannot fine-tune it: it was trained as a whole, and its parts were not."""
        if not before.distilled or context.pool.kind != "widths":
            return after
        better = accepts(before.model, after.model, "fine-tuning", cohort, context)
        return after if better else replace(after, model=before.model)
