from functools import partial

import pytest
from torch.optim import LBFGS, SGD

from mosaic.errors import MosaicError
from mosaic.federation.trial_step import take_trial_step
from mosaic.nets import Blueprint
from mosaic.training.phases import PhaseRunner

AVERAGING = {
    "class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging",
    "init_args": {"swa_lrs": 0.1},
}
"""Works where there is one optimiser."""


def watched(*callbacks: dict[str, object]) -> PhaseRunner:
    return PhaseRunner({"accelerator": "cpu", "devices": 1, "callbacks": list(callbacks)})


def test_what_works_passes(blueprint: Blueprint) -> None:
    take_trial_step(watched(AVERAGING), blueprint, partial(SGD, lr=1.0), 0.1)


def test_a_callback_that_takes_one_optimiser_is_refused_where_there_are_two(blueprint: Blueprint) -> None:
    with pytest.raises(MosaicError, match=r"trainer: a blank step .* 1 `optimizer`"):
        take_trial_step(watched(AVERAGING), blueprint, partial(SGD, lr=1.0), 0.1, two_optimizers=True)


def test_an_optimiser_that_cannot_take_these_parameters(blueprint: Blueprint) -> None:
    with pytest.raises(MosaicError, match=r"model\.optimizer: a blank step .*closure"):
        take_trial_step(watched(), blueprint, LBFGS, 0.1)
