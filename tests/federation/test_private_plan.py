"""How many steps a privacy budget is spread over."""

from types import SimpleNamespace

import pytest

from mosaic.federation.job import Job
from mosaic.privacy import Privacy, Shares

pytest.importorskip("dp_accounting", exc_type=ImportError)


def test_steps_of_experts_are_planned_too() -> None:
    """Else clients would refuse the last steps that they are asked for."""
    schedule = {"collaborative_rounds": 2, "fine_tune_rounds": 0, "local_steps": 2}
    schedule |= {"expert_steps": 5, "distill_rounds": [1], "learning_rate": 0.1}
    privacy = Privacy(8.0, shares=Shares(0.0, 0.0, 0.0, 1.0), local_training="dp_sgd")
    job = SimpleNamespace(privacy=privacy, config={"federation": {"schedule": schedule}})
    assert Job.budget.func(job).mechanisms["training"].steps == 7  # type: ignore[attr-defined]
