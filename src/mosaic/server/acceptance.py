"""Let the clients' validation images decide whether a model replaces another (METHOD section 7)."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from mosaic.messages import StateDict
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """What clients say of the models that a server offers.

    Attributes:
        best: place of the one that they like best; of equals the first.
        accepted: whether it replaces the old one.
    """

    best: int
    accepted: bool


def choose(old: StateDict, offers: Sequence[StateDict], what: str, cohort: Cohort, context: RoundContext) -> Choice:
    """Find the best of several models on the clients' validation images, and whether it is at least as good as the old.

    Worse is who gets fewer images right, or as many with a larger cross-entropy. Only clients that have judged all
    models count; if there is none although some were asked, no offer is accepted. One rule for all algorithms, since
    rules of selection that differ make a comparison unfair.

    Args:
        old: the model to be replaced.
        offers: models to replace it, one at least.
        what: their name, for log and TensorBoard.
        cohort: the clients of the round.
        context: of the round.
    """
    judgements = [cohort.evaluate(model) for model in (old, *offers)]
    missing = sorted({client for judgement in judgements for client in judgement.missing})
    judges = set.intersection(*({*judgement.clients} for judgement in judgements))
    before, *after = (judgement.of(judges) for judgement in judgements)
    best = max(range(len(after)), key=lambda place: after[place].merit())
    unseen = before.total.sum() == 0
    accepted = not missing if unseen else after[best].merit() >= before.merit()
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
            *(figure for judgement in (after[best], before) for figure in judgement.figures()),
        )
    return Choice(best, accepted)


def accepts(old: StateDict, new: StateDict, what: str, cohort: Cohort, context: RoundContext) -> bool:
    """Whether a single offer is at least as good as the old model: see :func:`choose`."""
    return choose(old, [new], what, cohort, context).accepted
