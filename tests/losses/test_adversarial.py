import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn

from mosaic.losses import adversarial
from mosaic.nets.batchnorm import batch_norm_inputs


def logits(random: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=random, dtype=torch.float64)


def test_bce_is_minus_the_log_likelihood(random: torch.Generator) -> None:
    real, fake = logits(random, 9), logits(random, 9)
    expected = -scipy.special.log_expit(real.numpy()).mean() - scipy.special.log_expit(-fake.numpy()).mean()
    assert adversarial.discriminator_bce(real, fake).item() == pytest.approx(expected)
    assert adversarial.generator_bce(fake).item() == pytest.approx(-scipy.special.log_expit(fake.numpy()).mean())


def test_bce_of_a_discriminator_that_cannot_tell() -> None:
    assert adversarial.discriminator_bce(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(2 * math.log(2))


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])
    assert adversarial.discriminator_hinge(real, fake).item() == 0.5 + 1.0
    assert adversarial.generator_hinge(fake).item() == 0.5


def test_hinge_rests_beyond_the_margin() -> None:
    assert adversarial.discriminator_hinge(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -9.0])).item() == 0


@pytest.mark.parametrize(
    ("of_discriminator", "of_generator"),
    [
        (adversarial.discriminator_bce, adversarial.generator_bce),
        (adversarial.discriminator_hinge, adversarial.generator_hinge),
    ],
)
def test_the_two_pull_a_fake_in_opposite_directions(of_discriminator, of_generator) -> None:
    fake = torch.zeros(3, requires_grad=True)
    (by_discriminator,) = torch.autograd.grad(of_discriminator(torch.ones(3), fake), fake)
    (by_generator,) = torch.autograd.grad(of_generator(fake), fake)
    assert (by_discriminator > 0).all()
    assert (by_generator < 0).all()


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_bce_of_extreme_logits_is_finite(size: float) -> None:
    extreme = torch.full((2,), size)
    assert adversarial.discriminator_bce(extreme, extreme).isfinite()
    assert adversarial.generator_bce(extreme).isfinite()


def test_entropy_is_the_mean_of_each_images_own(random: torch.Generator) -> None:
    scores = logits(random, 9, 5)
    expected = scipy.stats.entropy(scipy.special.softmax(scores.numpy(), axis=1), axis=1).mean()
    assert adversarial.mean_entropy(scores).item() == pytest.approx(expected)


def test_entropy_lies_between_certainty_and_ignorance() -> None:
    assert adversarial.mean_entropy(torch.zeros(3, 5)).item() == pytest.approx(math.log(5))
    assert adversarial.mean_entropy(1e4 * torch.eye(5)).item() == 0


def test_diversity_is_the_divergence_of_the_mean_prediction(random: torch.Generator) -> None:
    scores, target = logits(random, 9, 4), np.array([0.4, 0.3, 0.2, 0.1])
    expected = scipy.stats.entropy(scipy.special.softmax(scores.numpy(), axis=1).mean(0), target)
    assert adversarial.diversity(scores, torch.from_numpy(target)).item() == pytest.approx(expected)


def test_diversity_vanishes_when_the_mixture_is_as_wanted() -> None:
    predictions = 50 * torch.eye(4)[[0, 0, 1, 3]]
    wanted = torch.tensor([0.5, 0.25, 1e-9, 0.25])
    assert adversarial.diversity(predictions, wanted).item() == pytest.approx(0, abs=1e-6)
    assert adversarial.diversity(predictions, torch.full((4,), 0.25)).item() > 0.1


def test_diversity_ignores_the_order_of_images(random: torch.Generator) -> None:
    scores, target = logits(random, 9, 4), torch.full((4,), 0.25, dtype=torch.float64)
    turned = adversarial.diversity(scores.flip(0), target)
    assert turned.item() == pytest.approx(adversarial.diversity(scores, target).item())


def test_diversity_with_a_class_that_nobody_predicts_is_finite() -> None:
    scores = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4]], requires_grad=True)
    value = adversarial.diversity(scores, torch.full((3,), 1 / 3))
    value.backward()
    assert value.item() == pytest.approx(math.log(3) - math.log(2))
    assert scores.grad.isfinite().all()


def two_by_two() -> tuple[Tensor, Tensor, Tensor]:
    """Channel means 1 and 2, biased variances 1 and 4."""
    inputs = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    return inputs, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])


def test_inversion_vanishes_when_the_statistics_agree() -> None:
    assert adversarial.inversion([two_by_two()]).item() == 0


def test_inversion_by_hand() -> None:
    inputs, mean, variance = two_by_two()
    off_mean = (inputs, mean + torch.tensor([3.0, 4.0]), variance)
    off_variance = (inputs, mean, variance - torch.tensor([0.0, 2.0]))
    assert adversarial.inversion([off_mean, off_variance]).item() == 5 + 2


def test_inversion_takes_statistics_per_channel_of_images() -> None:
    inputs, mean, variance = two_by_two()
    images = inputs[:, :, None, None].expand(2, 2, 3, 5)
    assert adversarial.inversion([(images, mean, variance)]).item() == pytest.approx(0, abs=1e-6)
    assert adversarial.inversion([(images, mean + 1, variance)]).item() == pytest.approx(math.sqrt(2))


def test_inversion_without_batch_norm_is_zero() -> None:
    assert adversarial.inversion([]).item() == 0


@pytest.mark.parametrize(("off_mean", "off_variance"), [(1.0, 0.0), (0.0, 1.0)])
def test_mean_and_variance_each_send_a_gradient_back(off_mean: float, off_variance: float) -> None:
    inputs, mean, variance = two_by_two()
    inputs.requires_grad_()
    adversarial.inversion([(inputs, mean + off_mean, variance + off_variance)]).backward()
    assert inputs.grad.isfinite().all()
    assert inputs.grad.abs().sum() > 0


def test_the_gradient_is_that_of_mean_and_variance_as_torch_has_them() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    mean, variance = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    batch_variance, batch_mean = torch.var_mean(inputs, (0, 2, 3), correction=0)
    expected = (batch_mean - mean).norm() + (batch_variance - variance).norm()
    value = adversarial.inversion([(inputs, mean, variance)])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, inputs)[0] for loss in (value, expected)))


def test_inversion_has_a_gradient_to_the_generator_and_going_down_it_helps() -> None:
    torch.manual_seed(0)
    generator = nn.Conv2d(1, 1, 3, padding=1)
    guide = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    noise = torch.randn(8, 1, 6, 6)

    def distance() -> Tensor:
        with batch_norm_inputs(guide) as layers:
            guide(generator(noise))
        return adversarial.inversion(layers)

    before = distance()
    before.backward()
    assert generator.weight.grad.abs().sum() > 0
    with torch.no_grad():
        generator.weight -= 0.01 * generator.weight.grad
    assert distance() < before
