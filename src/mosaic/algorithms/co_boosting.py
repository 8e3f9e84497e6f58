"""Co-Boosting: DENSE whose images and ensemble improve each other."""

from mosaic.algorithms.dense import DENSE
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.server.context import RoundContext
from mosaic.tasks.pool_synthesis import PoolSynthesisTask
from mosaic.tasks.synthesis_settings import LearningSettings, ReweighingSettings, SynthesisSettings


class CoBoosting(DENSE):
    """DENSE with hard images and an ensemble that is weighted by them (Dai et al., ICLR 2024, arXiv 2402.15070).

    What differs: the generator's cross-entropy favours images that the ensemble hardly recognises; its divergence
    counts on all images, softened; the BatchNorm distance is the experts' mean; images move a signed step before
    student and ensemble see them; and after every synthesis the experts' weights, equal at first, move a signed step
    towards what the newest of these images are meant to be.

    **Deviation:** pixels move against the student; the released code moves them along a random direction of the
    ensemble's outputs (``learning.pixel_direction: random``) and gives the BatchNorm distance no weight, as
    ``configs/algorithms/co_boosting_released.yaml`` does. Its 8/255 is a step in normalised images, half as far in
    pixels where their standard deviation is a half. **Deviation:** the weights make one step for each synthesis, on its
    moved images, and are not divided by their sum; the released code makes one for every batch of the whole pool, on
    images in place, and divides. **Deviation:** gradients are not clipped (its norm: 10), and the student starts as the
    clients' average, not afresh.

    Args:
        objective: what local training minimises.
        student_updates: as for :class:`~mosaic.algorithms.dense.DENSE`; 0 gives FedAvg exactly.
        generator_updates: as for DENSE.
        synthesis_steps: as for DENSE.
        synthesis: how images are made.
        learning: how the student learns.
        reweighing: how the experts' weights move.
        guarded: as for DENSE.
    """

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        student_updates: int = 600,
        generator_updates: int = 6000,
        synthesis_steps: int = 30,
        synthesis: SynthesisSettings = SynthesisSettings(
            divergence_temperature=3.0, only_disagreeing=False, mean_statistics=True, hard_labels=True
        ),
        learning: LearningSettings = LearningSettings(temperature=4.0, pixel_step=8 / 255),
        reweighing: ReweighingSettings = ReweighingSettings(),
        guarded: bool = True,
    ) -> None:
        super().__init__(
            objective,
            student_updates,
            generator_updates,
            synthesis_steps,
            synthesis,
            learning,
            guarded,
        )
        self.reweighing = reweighing

    def _show(self, task: PoolSynthesisTask, context: RoundContext) -> None:
        """Show the experts' weights too, and measure the weighted ensemble."""
        context.recorder.heat_map("server/ensemble_weights", task.weights[:, None], "expert", "weight")
        context.observe(task.ensemble, "weighted ensemble")
        super()._show(task, context)
