"""The optimiser of generators, gates and distilled students."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Adam

from mosaic.training.tuning import allow_clipping


def adam(parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Adam:
    """Return Adam (Kingma and Ba 2015, arXiv 1412.6980), on CPUs in its fused form.

    On a CPU, a step of a small network takes 0.05 ms fused and 0.25 ms otherwise. On GPUs, where the fused form forbids
    gradient clipping under ``16-mixed``, PyTorch chooses.

    Args:
        parameters: on the device where they will be trained.
        learning_rate: positive.
        betas: decay rates of the two moving averages.
    """
    parameters = list(parameters)
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    optimizer = Adam(parameters, lr=learning_rate, betas=betas, fused=on_cpu or None)
    if on_cpu:
        allow_clipping(optimizer)
    return optimizer
