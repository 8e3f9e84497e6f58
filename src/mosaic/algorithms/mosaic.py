"""Mosaic (Liu et al., arXiv 2505.19699): data-free distillation of a mixture of experts into one global model."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

import torch

from mosaic.algorithms.base import Algorithm
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import PrototypeSettings
from mosaic.client.replay import ReplaySettings
from mosaic.errors import MosaicError, require_choice, require_kinds
from mosaic.generation import ClassGaussians, Generation
from mosaic.generation.base import require_generations
from mosaic.messages import GeneratorReply, StateDict
from mosaic.model_pool import ModelPool, PoolKind
from mosaic.nets.batchnorm import recalibrate
from mosaic.privacy.accounting import PrivacyBudget
from mosaic.privacy.settings import Privacy
from mosaic.server.acceptance import accepts, best_of, has_diverged, recorded
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.distillation import distil, on_the_way
from mosaic.server.experts import Experts, ExpertStatistics
from mosaic.server.generators import (
    GeneratorMixture,
    check_blank_generator,
    collect_generators,
    show_samples,
    uploaded_generator,
)
from mosaic.server.new_head import offer_new_head, with_better_head, without_new_head
from mosaic.server.private_student import collect_releases, train_student
from mosaic.server.replay import replayed_images
from mosaic.server.state import ServerState
from mosaic.server.uploads import ClassMeans, KeptUploads, Uploads
from mosaic.tasks.distillation import DistillationSettings
from mosaic.teachers import Evidence, Fusion, TeacherFactory
from mosaic.teachers.answers import ask_teacher
from mosaic.teachers.forming import form_teacher

log = logging.getLogger(__name__)
ASKED = "asked"
"""Name of the clients in the server's state that were asked for a generator to replay."""
RECALIBRATION_IMAGES = 1024
"""Generated images on which experts measure their BatchNorm statistics anew."""
ExpertKind = Literal["clients", "class_average"]
U = TypeVar("U", bound=Uploads)


class Mosaic(Algorithm):
    """Collaborative rounds; in a distilling round the server makes the uploads a teacher, and trains a better model.

    Args:
        objective: what local training minimises (released: cross-entropy).
        generation: how clients learn to make images like their own.
        prototypes: how clients summarise their images for teachers that need it.
        replay: how much of local training are images that the server has drawn from all generators, which clients then
            learn in their first round (ours; off by default, since other clients see these images).
        experts: ``clients`` takes their models as experts; ``class_average`` forms one expert per class (paper).
        expert_statistics: how the BatchNorm statistics of class averages come about: ``average`` like weights
            (released); ``pooled`` counts the spread of the clients' means as variance; ``recalibrated`` measures them
            anew on generated images, for client experts too.
        teacher: how experts become a teacher.
        distillation: how the student learns.
        new_head: whether the student, and the global model after the last round, may get a new linear head made from
            prototypes of the clients' images in their own features (ours). Clients decide; it needs a network with a
            linear head that all of them can run, if only to evaluate it, and no privacy budget.
        teach_back: whether the models of clients with architectures of their own learn from the accepted global model
            on generated images, on the server; these clients go on with what comes back. Without it they only give.
        prior_epsilon: images of every class that a client is credited with in its label prior (ours: keeps the
            logarithm of classes that it lacks finite).
        share_curves: whether clients report the loss curves of their generators, and how good these are; not given,
            they do in a simulation only.
    """

    supports = frozenset[PoolKind]({"same", "widths", "architectures"})
    resume_sensitive_to = frozenset[str]({"distils"})

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        generation: Generation = ClassGaussians(),
        prototypes: PrototypeSettings = PrototypeSettings(),
        replay: ReplaySettings = ReplaySettings(),
        experts: ExpertKind = "clients",
        expert_statistics: ExpertStatistics = "average",
        teacher: TeacherFactory = Fusion(),
        distillation: DistillationSettings = DistillationSettings(),
        new_head: bool = True,
        teach_back: bool = False,
        prior_epsilon: float = 0.01,
        share_curves: bool | None = None,
    ) -> None:
        require_generations("algorithm", generation=generation)
        require_kinds("algorithm", teacher=(teacher, TeacherFactory), replay=(replay, ReplaySettings))
        require_kinds("algorithm", distillation=(distillation, DistillationSettings))
        require_choice("algorithm", ExpertKind, experts=experts)
        require_choice("algorithm", ExpertStatistics, expert_statistics=expert_statistics)
        if expert_statistics != "average" and teacher.heads_only:
            raise MosaicError(
                f"algorithm.expert_statistics: {expert_statistics} concerns the experts' bodies, which play no part "
                "with algorithm.teacher.heads_only: use average, or set that to false"
            )
        if expert_statistics == "pooled" and experts == "clients":
            raise MosaicError(
                "algorithm.expert_statistics: pooled concerns averages of models, which client experts are not: "
                "use average or recalibrated, or algorithm.experts class_average"
            )
        teacher.check_origin(distillation.origin_weight, generation.conditional)
        if replay.share > 0 and not generation.conditional:
            raise MosaicError(
                "algorithm.replay.share: expected 0 with generators that cannot make images of a given class, got "
                f"{replay.share}: set it to 0, or algorithm.generation to one that can"
            )
        super().__init__(
            ClientProgram(objective, generation, prototypes, replay, prior_epsilon, share_curves=share_curves)
        )
        self.experts, self.expert_statistics = experts, expert_statistics
        self.teacher, self.distillation, self.teach_back = teacher, distillation, teach_back
        self.new_head, self.trains_two = new_head, generation.trains_two

    def check_pool(self, pool: ModelPool) -> None:
        """Refuse settings that do not fit the clients' models.

        Raises:
            MosaicError: a setting does not fit.
        """
        self.teacher.check_pool(pool)
        super().check_pool(pool)
        if pool.kind == "widths" and self.expert_statistics == "pooled":
            raise MosaicError(
                "algorithm.expert_statistics: pooled needs clients that all run the whole network, got sub-models: use "
                "average or recalibrated"
            )
        if self.teach_back and pool.kind != "architectures":
            raise MosaicError(
                "algorithm.teach_back: concerns clients with a model of their own, and there are none: set "
                "clients.models, or leave it false"
            )
        if pool.kind == "architectures" and self.experts == "class_average":
            raise MosaicError(
                "algorithm.experts: different architectures have no class averages: set algorithm.experts clients"
            )

    def check_network(self, pool: ModelPool) -> None:
        """Refuse networks without the features or the head that the teacher needs, and generators of other images."""
        self.teacher.check_network(pool)
        blueprint = pool.blueprint
        check_blank_generator(self.program.generation, blueprint.image_shape, blueprint.num_classes)

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether the teacher needs them."""
        return self.teacher.needs_prototypes(pool)

    def check_privacy(self, privacy: Privacy) -> None:
        """Take a budget that releases the sums of which Gaussians of classes are made.

        Raises:
            MosaicError: it releases nothing, generators are of another kind, or local training is not cross-entropy's.
        """
        plain = isinstance(self.program.objective, CrossEntropy)
        gaussian = isinstance(self.program.generation, ClassGaussians)
        if not (gaussian and plain):
            super().check_privacy(privacy)
        if not (privacy.shares.counts and privacy.shares.means and privacy.shares.moments):
            raise MosaicError(
                "privacy.shares: expected counts, means and moments above 0 with ClassGaussians, which are made of "
                f"them, got {privacy.shares.counts}, {privacy.shares.means} and {privacy.shares.moments}"
            )

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run the paper's steps in their order; one that does not distil is FedAvg's, but for replay."""
        if context.budget is not None:
            return self._private_round(context.budget, state, cohort, context)
        state = without_new_head(state)
        if context.plan.distils:
            tuned, uploads = self._train(state, self._collector(context), cohort, context)
            averaged = self._guard(state, tuned, cohort, context)
            after = self._distil(averaged, uploads, cohort, context)
        else:
            tuned, _ = self._train(state, Uploads, cohort, context)
            after = averaged = self._guard(state, tuned, cohort, context)
        headless = context.plan.last and self.new_head and after.model is averaged.model
        return offer_new_head(after, cohort, context) if headless else after

    def _distil(self, state: ServerState, uploads: KeptUploads, cohort: Cohort, context: RoundContext) -> ServerState:
        """Make the uploads a teacher and teach a student; return the state as it is if none is accepted."""
        images = self._mix_generators(state, uploads, context)
        if images is None:
            log.warning("round %d: no generator to make images with, so nothing is distilled", context.plan.round)
            return state
        held = torch.stack([reply.class_counts for reply in uploads.replies]) >= self.program.generation.min_count
        if not held.any():
            log.warning("round %d: nobody has enough images of any class, so nothing is distilled", context.plan.round)
            return state
        experts = self._form_experts(uploads, images, context)
        removed, count = self.program.objective.adjusts_prior, self.distillation.pool_size
        evidence = Evidence(state.model, uploads, images, count, removed, cohort, context)
        context.observe(evidence.trunk, "global before distillation")
        origin_counts = images.conditional and self.distillation.origin_weight > 0
        teacher = form_teacher(self.teacher, experts, evidence, held.any(0), origin_counts)
        show_samples(images, context)
        student = distil(context.blueprint.build(state.model), teacher, images, self.distillation, context)
        offered = self._offer(student, state, cohort, context)
        accepted = offered.model is not state.model
        return self._teach_back(offered, uploads, images, context) if self.teach_back and accepted else offered

    def _train(
        self, state: ServerState, collect: Callable[..., U], cohort: Cohort, context: RoundContext
    ) -> tuple[ServerState, U]:
        """Let clients train, average what they upload, and collect the generators that this round needs."""
        fresh, replay = self._to_learn(state, context), self._replay(state, context)
        uploads = cohort.train(state.model, collect, keep=fresh, returned=state.returned, replay=replay)
        trained = [client for client in fresh if client in uploads.clients]
        state = self._averaged(state, uploads)
        if not trained:
            return state, uploads
        if self.program.replay.share > 0:
            asked = torch.tensor(sorted({*_asked(state), *trained}))
            state = replace(state, tensors={**state.tensors, ASKED: asked})
        return collect_generators(state, trained, self.program.generation, cohort, context), uploads

    def _to_learn(self, state: ServerState, context: RoundContext) -> list[int]:
        """Return the clients that are to learn a generator: those without one if this round distils, else new ones."""
        known = {reply.client for reply in state.generators}
        if not context.plan.distils:
            known |= _asked(state)
        needed = context.plan.distils or self.program.replay.share > 0
        return [client for client in context.plan.clients if needed and client not in known]

    def _replay(self, state: ServerState, context: RoundContext) -> StateDict:
        """Return the images that clients replay; none in a round that distils, whose experts know real images best."""
        if self.program.replay.share == 0 or context.plan.distils or not state.generators:
            return {}
        images = self._mixture(state.generators, context)
        return replayed_images(images, self.program.replay, context.generator_for("replay"))

    def _private_round(
        self, budget: PrivacyBudget, state: ServerState, cohort: Cohort, context: RoundContext
    ) -> ServerState:
        """Train a student on what clients have released, as soon as somebody has; then average, if clients train."""
        generation = self.program.generation
        assert isinstance(generation, ClassGaussians), "check_privacy has seen to it"
        if not (state.distilled and budget.privacy.trains):  # averages go on from the first student
            state, fresh = collect_releases(state, budget, generation, cohort, context)
            state = train_student(state, budget, generation, self.distillation, context) if fresh else state
        if budget.privacy.trains:
            state = self._averaged(state, cohort.train(state.model, Uploads))
        return state

    def _collector(self, context: RoundContext) -> Callable[..., KeptUploads]:
        """Return what uploads are collected in, and made experts of."""
        by_class = partial(ClassMeans, pooled=self.expert_statistics == "pooled")
        return partial(
            KeptUploads if self.experts == "clients" else by_class,
            heads_only=self.teacher.heads_only,
            keep_models=self._owners_label,
            most=context.phases.dry_run.most_experts,
        )

    @property
    def _owners_label(self) -> bool:
        """Whether generated images are labelled by the models of the clients that they come from."""
        return self.teacher.needs_owners(self.program.generation.conditional)

    @staticmethod
    def _averaged(state: ServerState, uploads: Uploads) -> ServerState:
        """Make the average the global model, and forget the models that these clients have received back."""
        waiting = {name: model for name, model in state.returned.items() if int(name) not in uploads.clients}
        return replace(state, model=uploads.average(), returned=waiting)

    def _mix_generators(self, state: ServerState, uploads: Uploads, context: RoundContext) -> GeneratorMixture | None:
        """Join the generators into one source of images; where owners label images, only those of present clients."""
        used = [reply for reply in state.generators if reply.client in uploads.clients or not self._owners_label]
        if not used or not uploads.clients:
            return None
        return self._mixture(used, context)

    def _mixture(self, used: Sequence[GeneratorReply], context: RoundContext) -> GeneratorMixture:
        shape = context.blueprint.image_shape
        build = partial(uploaded_generator, generation=self.program.generation, image_shape=shape)
        return GeneratorMixture(used, build, context.phases.device, self.distillation.generator_balance)

    def _form_experts(self, uploads: KeptUploads, images: GeneratorMixture, context: RoundContext) -> Experts:
        """Turn the uploads into experts and show who knows what."""
        with context.timed("experts"):
            experts = uploads.experts(self.program.prior_epsilon)
            if self.expert_statistics == "recalibrated":
                source = images.draw(
                    context.phases.dry_run.batch(RECALIBRATION_IMAGES), context.generator_for("experts/images")
                )
                shuffled = torch.randperm(len(source.images), generator=context.generator_for("experts/order"))
                for expert in experts.models:
                    recalibrate(expert, source.images[shuffled.to(source.images.device)])
        context.recorder.heat_map("server/expert_authority", experts.authority, "expert", "class")
        return experts

    def _offer(self, student: StateDict, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Replace the average by the model between it and the student that clients like best, unless it is worse.

        Before they decide, that model may get a new head.
        """
        if has_diverged(student, "student", context):
            recorded(False, "student", context)
            return state
        offers = [on_the_way(state.model, student, share) for share in self.distillation.shares]
        best = best_of(offers, cohort)
        model, share, round = offers[best], self.distillation.shares[best], context.plan.round
        context.recorder.scalar("server/student_share", share)
        if self.new_head:
            model = with_better_head(model, "student before its new head", cohort, context)
        context.observe(context.blueprint.build(model), "student")
        if not accepts(state.model, model, "student", cohort, context):
            return state
        if share < 1:
            log.info(
                "round %d: clients prefer the model %.0f %% of the way from average to student", round, 100 * share
            )
        return replace(state, model=model, distilled=True)

    def _teach_back(
        self,
        state: ServerState,
        uploads: KeptUploads,
        images: GeneratorMixture,
        context: RoundContext,
    ) -> ServerState:
        """Distil the global model into the models of clients that keep their own, and send these back."""
        world = context.blueprint.build(state.model)
        returned = dict(state.returned)
        for reply in uploads.replies:
            if context.pool.keeps_own(reply.client):
                own = context.pool.of(reply.client).build(reply.model)
                name = f"teach_back/{reply.client:02d}"
                taught = distil(
                    own, lambda source: ask_teacher(world, source.images), images, self.distillation, context, name
                )
                if not has_diverged(taught, f"model taught for client {reply.client}", context):
                    first, *_ = self.distillation.shares  # nobody judges
                    returned[str(reply.client)] = on_the_way(reply.model, taught, first)
        return replace(state, returned=returned)

    def _guard(self, before: ServerState, after: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Keep an earlier student if training makes it worse where not all clients train the whole global network."""
        if not before.distilled or context.pool.kind == "same" or after.model is before.model:
            return after
        better = accepts(before.model, after.model, "fine-tuning", cohort, context)
        return after if better else replace(after, model=before.model)


def _asked(state: ServerState) -> set[int]:
    """Return the clients that were asked for a generator to replay, whether they had one or not."""
    return set(state.tensors[ASKED].tolist()) if ASKED in state.tensors else set()
