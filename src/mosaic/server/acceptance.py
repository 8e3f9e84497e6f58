"""Let the clients' validation images decide whether a model replaces another (METHOD section 7)."""

import logging

from mosaic.messages import StateDict
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext

log = logging.getLogger(__name__)


def accepts(old: StateDict, new: StateDict, what: str, cohort: Cohort, context: RoundContext) -> bool:
    """Whether a model is at least as good as the one that it would replace, on the clients' validation images.

    Worse is who gets fewer of them right, or as many with a larger cross-entropy. Only clients that have judged both
    models count; if there is none although some were asked, the new model is not accepted. One rule for all algorithms,
    since rules of selection that differ make a comparison unfair.

    Args:
        old: the model to be replaced.
        new: the model to replace it.
        what: the new one's name, for log and TensorBoard.
        cohort: the clients of the round.
        context: of the round.
    """
    before, after = cohort.evaluate(old), cohort.evaluate(new)
    missing = sorted({*before.missing, *after.missing})
    before, after = before.of(after.clients), after.of(before.clients)
    unseen = before.total.sum() == 0
    accepted = not missing if unseen else after.merit() >= before.merit()
    context.recorder.scalar(f"server/{what.replace('-', '_')}_accepted", float(accepted))
    if unseen:
        log.warning(
            "round %d: %s the %s, so it is %s",
            context.plan.round,
            f"none of the clients {missing} has judged" if missing else "no client can judge",
            what,
            "refused" if missing else "taken unseen",
        )
    elif not accepted:
        log.warning(
            "round %d: the %s is refused: clients count %d correct validation images for it, at a mean "
            "cross-entropy of %.3f, and %d, at %.3f, for the model that it would replace",
            context.plan.round,
            what,
            *(figure for judgement in (after, before) for figure in judgement.figures()),
        )
    return accepted
