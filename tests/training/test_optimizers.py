import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import Adam

from mosaic.training.optimizers import adam


def fitted(optimizer_of: object, steps: int = 20) -> list[torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = optimizer_of(net.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.rand(16, 4)).square().mean().backward()
        optimizer.step()
    return list(net.parameters())


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.99)])
def test_the_fused_form_takes_adams_steps(betas: tuple[float, float]) -> None:
    ours = fitted(lambda parameters: adam(parameters, 0.01, betas))
    plain = fitted(lambda parameters: Adam(parameters, lr=0.01, betas=betas, foreach=False, fused=False))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_on_a_cpu_it_is_fused() -> None:
    assert adam([nn.Parameter(torch.zeros(2))], 0.1).defaults["fused"] is True


def test_elsewhere_pytorch_chooses() -> None:
    assert adam([nn.Parameter(torch.zeros(2, device="meta"))], 0.1).defaults["fused"] is None


def test_on_a_cpu_it_lets_itself_be_clipped_in_mixed_precision() -> None:
    optimizer = adam([nn.Parameter(torch.zeros(2))], 0.1)
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, clip_val=1.0)
