"""Let the clients' validation images decide whether a model replaces another (docs/method.md, section 7)."""

import logging
import re
from collections.abc import Sequence

from mosaic.finite import are_finite
from mosaic.messages import StateDict
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext

log = logging.getLogger(__name__)


def best_of(offers: Sequence[StateDict], cohort: Cohort) -> int:
    """Return the place of the model with most validation images right, then the smallest cross-entropy, then the first.

    Only clients that have judged all of them count.
    """
    judgements = [cohort.evaluate(model) for model in offers]
    judges = set.intersection(*({*judgement.clients} for judgement in judgements))
    return max(range(len(offers)), key=lambda place: judgements[place].of(judges).merit())


def has_diverged(new: StateDict, what: str, context: RoundContext) -> bool:
    """Whether a model's weights are not finite, so that nobody need be asked; if so, log that it is refused."""
    if are_finite(new.values()):
        return False
    log.warning("round %d: the weights of the %s are not finite, so it is refused", context.plan.round, what)
    return True


def recorded(verdict: bool, what: str, context: RoundContext) -> bool:
    """Record whether a model was accepted, and return it."""
    context.recorder.scalar(f"server/{re.sub('[- ]', '_', what)}_accepted", float(verdict))
    return verdict


def is_taken(old: StateDict, student: StateDict, cohort: Cohort, context: RoundContext, guarded: bool) -> bool:
    """Whether a student replaces a model: if clients accept it; unguarded, if it has not diverged."""
    return accepts(old, student, "student", cohort, context) if guarded else is_taken_unseen(student, context)


def is_taken_unseen(student: StateDict, context: RoundContext) -> bool:
    """Whether a student that nobody may judge is taken: if it has not diverged."""
    return recorded(not has_diverged(student, "student", context), "student", context)


def accepts(old: StateDict, new: StateDict, what: str, cohort: Cohort, context: RoundContext) -> bool:
    """Whether a model is at least as good as the old one on the clients' validation images.

    A model is worse if it gets fewer images right, or as many with a larger cross-entropy. Only clients that have
    judged both models count; if there is none although some were asked, the new one is refused, and so is one whose
    weights are not finite, whoever judges. One rule for all algorithms, since rules of selection that differ make a
    comparison unfair. Log and TensorBoard call the new one ``what``.
    """
    if has_diverged(new, what, context):
        return recorded(False, what, context)
    judgements = [cohort.evaluate(model) for model in (old, new)]
    missing = sorted({client for judgement in judgements for client in judgement.missing})
    judges = set.intersection(*({*judgement.clients} for judgement in judgements))
    before, after = (judgement.of(judges) for judgement in judgements)
    unseen = before.total.sum() == 0
    accepted = not missing if unseen else after.merit() >= before.merit()
    if unseen:
        log.warning(
            "round %d: %s the %s, so it is %s",
            context.plan.round,
            f"none of the clients {missing} has judged" if missing else "no client can judge",
            what,
            "refused" if missing else "taken unseen",
        )
    else:
        log.log(
            logging.INFO if accepted else logging.WARNING,
            "round %d: the %s is %s: %d validation images right with it (cross-entropy %.3f), %d without (%.3f)",
            context.plan.round,
            what,
            "taken" if accepted else "refused",
            *(count for judgement in (after, before) for count in judgement.figures()),
        )
    return recorded(accepted, what, context)
