"""DENSE: the server distils the ensemble of the uploads on images that it makes from them."""

import logging
from dataclasses import replace

import torch

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.errors import MosaicError, require_at_least_zero, require_count, require_whole
from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import PoolKind
from mosaic.nets.classifier import Classifier
from mosaic.nets.gates import WeightedLogits
from mosaic.nets.teacher import ImageExperts, MixtureOfExperts
from mosaic.server.acceptance import is_taken
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.shown import SHOWN_IMAGES
from mosaic.server.state import ServerState
from mosaic.server.uploads import KeptUploads
from mosaic.tasks.alternating import take_turns
from mosaic.tasks.pool_synthesis import PoolSynthesisTask
from mosaic.tasks.synthesis_settings import LearningSettings, ReweighingSettings, SynthesisSettings

log = logging.getLogger(__name__)


class DENSE(FedAvg):
    """FedAvg; in a distilling round the ensemble of the uploads teaches their average (Zhang et al. 2022).

    Data-Free One-Shot Federated Learning, NeurIPS 2022, arXiv 2112.12371. The teacher is the mean of the uploads'
    logits. Images come from a generator that is trained on the server, anew for every batch, to be recognised by the
    teacher as drawn labels, to have the BatchNorm statistics of the clients' images, and to divide student and teacher.

    **Deviation:** the student replaces the average only if the clients' validation images agree (``guarded``), the
    rule of all methods here. **Deviation:** student updates are spread evenly over the syntheses, so that any budget
    fits; the paper makes one pass over the growing pool after each. **Deviation:** a round that does not distil is
    FedAvg's, and several that do share the budget; the paper has one round alone.

    Args:
        objective: what local training minimises.
        student_updates: of the whole run, spread evenly over its distilling rounds, as many as Mosaic's default spends
            in one; 0 gives FedAvg exactly, and a round without any is FedAvg's.
        generator_updates: of the whole run, spread evenly over its distilling rounds, as many as ten clients'
            default GANs (:class:`~mosaic.generation.Adversarial`) take. A part that is too small for a synthesis is not
            spent.
        synthesis_steps: generator updates that one batch of images takes (paper: 30).
        synthesis: how images are made.
        learning: how the student learns.
        guarded: whether the clients' validation images decide.

    Raises:
        MosaicError: a number is negative, or there is not a single synthesis to learn from.
    """

    supports = frozenset[PoolKind]({"same", "widths", "architectures"})
    resume_sensitive_to = frozenset[str]({"distillation"})
    trains_two = True  # generator and student

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        student_updates: int = 600,
        generator_updates: int = 6000,
        synthesis_steps: int = 30,
        synthesis: SynthesisSettings = SynthesisSettings(),
        learning: LearningSettings = LearningSettings(),
        guarded: bool = True,
    ) -> None:
        require_whole("algorithm", student_updates=student_updates, generator_updates=generator_updates)
        require_at_least_zero("algorithm", student_updates=student_updates)
        require_count("algorithm", synthesis_steps=synthesis_steps)
        if student_updates and generator_updates < synthesis_steps:
            raise MosaicError(
                f"algorithm.generator_updates: expected at least {synthesis_steps}, the algorithm.synthesis_steps of "
                f"one batch of images, got {generator_updates}: raise it, or set algorithm.student_updates 0 for FedAvg"
            )
        super().__init__(objective)
        self.student_updates, self.guarded = student_updates, guarded
        self.synthesis_steps, self.syntheses = synthesis_steps, generator_updates // synthesis_steps
        self.synthesis, self.learning = synthesis, learning
        self.reweighing = ReweighingSettings(step=0)

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run FedAvg's round; in a distilling round, offer the clients a student in place of the average."""
        share, within = context.plan.share_of_distillation, context.phases.dry_run.steps
        syntheses, updates = within(share(self.syntheses)), within(share(self.student_updates))
        if not (syntheses and updates):
            return replace(state, model=super().round(state, cohort, context).model)
        uploads = cohort.train(state.model, KeptUploads)
        if not uploads.clients:
            log.warning("round %d: no client has uploaded a model, so nothing is distilled", context.plan.round)
            return state
        model = uploads.average()
        student = self._distil(model, uploads.replies, syntheses, updates, context)
        if is_taken(model, student, cohort, context, self.guarded):
            return replace(state, model=student, distilled=True)
        return replace(state, model=model)

    def _distil(
        self, start: StateDict, uploads: list[TrainReply], syntheses: int, updates: int, context: RoundContext
    ) -> StateDict:
        """Train a student that starts from the average of the uploads."""
        ensemble = self._mean_ensemble(uploads, context)
        student = context.blueprint.build(start)
        context.observe(student, "global before distillation")
        context.observe(ensemble, "logit ensemble")
        phases, seed = context.phases, context.seed_for("distillation")
        task = self._task(student, ensemble, syntheses, context)
        made = syntheses * phases.dry_run.steps(self.synthesis_steps)
        with context.timed("distillation"):
            curves = phases.run(task, take_turns(made, updates, syntheses), seed)
        context.count_updates("student", updates)
        context.count_updates("generator", made)
        context.record_curves("distillation", curves)
        self._show(task, context)
        learnt = student.state_dict()
        context.observe(context.blueprint.build(learnt), "student")  # a copy: measuring moves a net to the GPU
        return learnt

    def _task(
        self, student: Classifier, ensemble: MixtureOfExperts, syntheses: int, context: RoundContext
    ) -> PoolSynthesisTask:
        phases, synthesis, learning = context.phases, self.synthesis, self.learning
        return PoolSynthesisTask(
            student,
            ensemble,
            replace(synthesis, batch_size=phases.dry_run.batch(synthesis.batch_size)),
            replace(learning, batch_size=phases.dry_run.batch(learning.batch_size)),
            self.reweighing,
            syntheses,
            context.seed_for("synthesis"),
        )

    @staticmethod
    def _mean_ensemble(uploads: list[TrainReply], context: RoundContext) -> MixtureOfExperts:
        """Join the uploads by the mean of their logits."""
        experts = [context.pool.of(upload.client).build(upload.model) for upload in uploads]
        return MixtureOfExperts(ImageExperts(experts), WeightedLogits(torch.full((len(experts),), 1 / len(experts))))

    def _show(self, task: PoolSynthesisTask, context: RoundContext) -> None:
        """Show some images of the pool."""
        context.recorder.images("synthesis/samples", task.pool.samples(SHOWN_IMAGES))
