"""The optimiser that server and generators are trained with."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Adam

from mosaic.training.tuning import allow_clipping


def adam(parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Adam:
    """Return Adam (Kingma and Ba 2015, arXiv 1412.6980), on CPUs in its fused form.

    On a small network PyTorch's ordinary step takes 0.25 ms on a CPU, the fused one 0.05 ms. On GPUs the fused form
    would forbid gradient clipping under ``16-mixed``, so PyTorch chooses there.

    Args:
        parameters: to train, on the device where they will be trained.
        learning_rate: positive.
        betas: of the two running means.
    """
    parameters = list(parameters)
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    optimizer = Adam(parameters, lr=learning_rate, betas=betas, fused=on_cpu or None)
    if on_cpu:
        allow_clipping(optimizer)
    return optimizer
