"""FedFTG: the server fine-tunes the average on hard generated images."""

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.errors import require_at_least_zero
from mosaic.finite import are_finite
from mosaic.losses.fedftg import (
    ensemble_cross_entropy,
    similarity,
    weighted_cross_entropy,
    weighted_disagreement,
)
from mosaic.messages import StateDict, TrainReply
from mosaic.nets.class_weighted import ClassWeightedEnsemble
from mosaic.nets.classifier import Classifier
from mosaic.nets.dcgan import Generator
from mosaic.nets.gates import MeanGate
from mosaic.nets.teacher import ImageExperts, MixtureOfExperts
from mosaic.server.acceptance import is_taken
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.experts import class_shares
from mosaic.server.kept_generator import LATEST, load_generator, show_samples, tensors_of
from mosaic.server.state import ServerState
from mosaic.server.uploads import KeptUploads
from mosaic.tasks.alternating import take_turns
from mosaic.tasks.generator_distillation import (
    Conditions,
    DistillationObjective,
    EarlierGenerator,
    GeneratorDistillationSettings,
    GeneratorDistillationTask,
)

log = logging.getLogger(__name__)


class FedFTG(FedAvg):
    """FedAvg, then data-free distillation of the uploads into the average (Zhang et al., CVPR 2022, arXiv 2203.09249).

    In every round the server draws labels as often as the clients hold them. A conditional generator, kept from round
    to round, learns to make images that the clients recognise and the averaged model judges differently; the averaged
    model follows the clients on these. Each client counts by its share of the images that have the wanted label.

    **Deviation:** the generator ends in pixels of ``[0, 1]`` (released: tanh and BatchNorm without affine, which puts
    images in the normalised range; normalisation lives inside our classifiers). **Deviation:** the clients' validation
    images decide whether the distilled model replaces the average, the same rule for all methods here. **Deviation:**
    learning rates do not decay over the rounds (released: by 0.998 each).

    Args:
        objective: what local training minimises.
        student_updates: of the whole run, spread evenly over its rounds; 0 gives FedAvg exactly. A round to which none
            falls keeps FedAvg's model, and trains the generator alone if generator updates fall to it.
        generator_updates: of the whole run, spread evenly over its rounds; clients take turns in judging.
        tuning: how generator and student learn.
        classification_weight: weight of the clients' cross-entropy in the generator's loss (released: 1).
        diversity_weight: weight of the images' likeness in the generator's loss, before it is divided by the number of
            clients (released: 1).
        guarded: whether the clients' validation images may refuse the distilled model.

    Raises:
        MosaicError: a number of updates or a weight is negative.
    """

    resume_sensitive_to = frozenset[str]({"rounds"})
    trains_two = True  # generator and student

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        student_updates: int = 600,
        generator_updates: int = 6000,
        tuning: GeneratorDistillationSettings = GeneratorDistillationSettings(),
        classification_weight: float = 1.0,
        diversity_weight: float = 1.0,
        guarded: bool = True,
    ) -> None:
        require_at_least_zero(
            "algorithm",
            student_updates=student_updates,
            generator_updates=generator_updates,
            classification_weight=classification_weight,
            diversity_weight=diversity_weight,
        )
        super().__init__(objective)
        self.student_updates, self.generator_updates = student_updates, generator_updates
        self.tuning, self.guarded = tuning, guarded
        self.classification_weight, self.diversity_weight = classification_weight, diversity_weight

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run FedAvg's round, then distil the uploads into the average."""
        uploads = cohort.train(state.model, KeptUploads)
        state = replace(state, model=uploads.average())
        updates = [context.plan.share(total) for total in (self.student_updates, self.generator_updates)]
        if not uploads.clients or self.student_updates == 0 or not any(updates):
            return state
        student = context.blueprint.build(state.model)
        state = self._distil(student, uploads.replies, state, context)
        if updates[0] == 0:  # in a schedule of more rounds than updates the generator alone learns in some
            return state
        learnt = student.state_dict()  # once: clients judge a model once, and know it by its identity
        return replace(state, model=learnt) if is_taken(state.model, learnt, cohort, context, self.guarded) else state

    def _distil(
        self, student: Classifier, uploads: list[TrainReply], state: ServerState, context: RoundContext
    ) -> ServerState:
        """Train generator and student in turns; return the state with the new generator, unless it has diverged."""
        class_counts = torch.stack([upload.class_counts for upload in uploads])
        members = [context.pool.of(upload.client).build(upload.model) for upload in uploads]
        generator, held = load_generator(self.tuning, state, context), class_counts.sum(0)
        if context.plan.last:
            context.observe(student, "global before distillation")
            context.observe(MixtureOfExperts(ImageExperts(members), MeanGate()), "plain ensemble")
        self._train(
            generator, student, ClassWeightedEnsemble(members, class_shares(class_counts).T), held, state, context
        )
        if context.plan.last:
            context.observe(context.blueprint.build(student.state_dict()), "distilled model")  # measuring moves a net
            show_samples(generator, held, context)
        kept = self._remember(generator, state)
        if not are_finite(kept.values()):
            log.warning(
                "round %d: the server's generator diverged to values that are not finite, so the next round begins as "
                "this one did: lower algorithm.tuning.generator_learning_rate",
                context.plan.round,
            )
            return state
        return replace(state, tensors=kept)

    def _train(
        self,
        generator: Generator,
        student: Classifier,
        ensemble: ClassWeightedEnsemble,
        held: Tensor,
        state: ServerState,
        context: RoundContext,
    ) -> None:
        phases, plan = context.phases, context.plan
        settings = replace(self.tuning, batch_size=phases.dry_run.batch(self.tuning.batch_size))
        totals = (plan.share(self.generator_updates), plan.share(self.student_updates))
        made, learnt = (phases.dry_run.steps(total) for total in totals)
        earlier, seed = self._earlier(state, context), context.seed_for("distillation")
        task = GeneratorDistillationTask(
            generator, student, self._objective(ensemble, plan), held, settings, seed, earlier
        )
        with context.timed("distillation"):
            curves = phases.run(task, take_turns(made, learnt, settings.iterations), seed)
        context.count_updates("generator", made)
        context.count_updates("student", learnt)
        for name, curve in curves.items():
            context.recorder.scalar(f"server/distillation_{name}", float(curve.mean()))

    def _objective(self, ensemble: ClassWeightedEnsemble, plan: RoundPlan) -> DistillationObjective:
        """Return what generator and student minimise."""
        first = plan.spent(self.generator_updates)
        return FedFTGObjective(ensemble, self.classification_weight, self.diversity_weight, first)

    def _earlier(self, state: ServerState, context: RoundContext) -> EarlierGenerator | None:
        """Return the generator of earlier rounds that also makes images for the student."""
        return None

    def _remember(self, generator: Generator, state: ServerState) -> StateDict:
        """Return the tensors to keep for the next round."""
        return {**state.tensors, **tensors_of(generator, LATEST)}


class FedFTGObjective(DistillationObjective):
    """Train the generator against one client per update, round robin; train the student on all clients.

    Args:
        ensemble: the clients' models with their class weights.
        classification_weight: weight of the client's cross-entropy.
        diversity_weight: weight of the images' similarity, before it is divided by the number of clients.
        first: number of generator updates before this round, so that the round robin goes on over rounds.
    """

    def __init__(
        self, ensemble: ClassWeightedEnsemble, classification_weight: float, diversity_weight: float, first: int = 0
    ) -> None:
        super().__init__()
        self.ensemble, self.first = ensemble, first
        self.classification_weight, self.diversity_weight = classification_weight, diversity_weight

    def generator_terms(
        self, images: Tensor, conditions: Conditions, student: nn.Module, update: int
    ) -> dict[str, Tensor]:
        """Return the similarity, and the client's two terms where it has seen any of the labels."""
        clients = len(self.ensemble.members)
        terms = {"similarity": self.diversity_weight / clients * similarity(conditions.noise, images)}
        client = (self.first + update) % clients
        heard, weights = self.ensemble.heard(client, conditions.drawn, images.device)
        if len(heard) == 0:
            return terms
        judged, weights = images[heard], weights * len(heard) / len(images)  # the others count with weight 0
        teacher_logits = self.ensemble.members[client](judged)
        classification = weighted_cross_entropy(teacher_logits, conditions.labels[heard], weights)
        return {
            **terms,
            "classification": self.classification_weight * classification,
            "disagreement": -weighted_disagreement(student(judged), teacher_logits, weights),
        }

    def student_loss(self, logits: Tensor, images: Tensor, conditions: Conditions) -> Tensor:
        """Return the cross-entropy with the clients' weighted probabilities."""
        with torch.no_grad():
            probabilities = self.ensemble(images, conditions.drawn, lambda each: each.softmax(-1))
        return ensemble_cross_entropy(logits, probabilities)
