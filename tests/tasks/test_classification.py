from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.nets import Blueprint, Classifier
from mosaic.nets.inference import to_pixels
from mosaic.tasks.classification import ClassificationTask
from mosaic.training.phases import PhaseRunner


def cross_entropy(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(net(images), labels)


def stripes() -> tuple[Tensor, Tensor]:
    """Thirty images whose brightness tells the class."""
    labels = torch.arange(30) % 3
    images = (100 * labels)[:, None, None, None].expand(30, 1, 8, 8).to(torch.uint8)
    return images, labels


def local_task(net: Classifier, rate: float, optimizer=SGD, view=to_pixels) -> ClassificationTask:
    return ClassificationTask(net, cross_entropy, optimizer, rate, view)


def train(task: ClassificationTask, phases: PhaseRunner, steps: int) -> dict[str, Tensor]:
    return phases.run(task, ShuffledBatches(*stripes(), batch_size=10, steps=steps, seed=0), seed=0)


@pytest.fixture
def net(blueprint: Blueprint) -> Classifier:
    return blueprint.build(blueprint.initial(0))


def test_a_client_learns_what_its_images_show(net: Classifier, phases: PhaseRunner) -> None:
    curve = train(local_task(net, rate=0.1), phases, steps=40)["loss"]
    images, labels = stripes()
    assert curve.shape == (40,)
    assert curve[-5:].mean() < 0.5 * curve[0]
    assert (net.eval()(to_pixels(images)).argmax(1) == labels).float().mean() > 0.9


def test_the_request_sets_the_learning_rate(net: Classifier) -> None:
    optimizer = local_task(net, 0.03, partial(SGD, lr=7.0, momentum=0.5)).configure_optimizers()
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.03, 0.5)]


def test_a_rate_of_zero_moves_statistics_but_no_weight(blueprint: Blueprint, phases: PhaseRunner) -> None:
    state = blueprint.initial(0)
    net = blueprint.build(state)
    train(local_task(net, rate=0.0), phases, steps=2)
    parameters = {name for name, _ in net.named_parameters()}
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, state[name])}
    assert not moved & parameters
    assert {name.rsplit(".", 1)[1] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}


def test_one_step_is_the_gradient_step_that_autograd_gives(blueprint: Blueprint, phases: PhaseRunner) -> None:
    state = blueprint.initial(0)
    trained, twin = blueprint.build(state), blueprint.build(state)
    images, labels = stripes()
    phases.run(local_task(trained, rate=0.5), ShuffledBatches(images, labels, batch_size=30, steps=1, seed=0), seed=0)
    (gradient,) = torch.autograd.grad(cross_entropy(twin, to_pixels(images), labels), twin.head.weight)
    torch.testing.assert_close(trained.head.weight, twin.head.weight - 0.5 * gradient)


def test_the_view_makes_the_pixels_that_the_net_sees(net: Classifier, phases: PhaseRunner) -> None:
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    train(local_task(net, 0.1, view=lambda images: to_pixels(images).flip(-1) + 2), phases, steps=1)
    assert seen[0].dtype == torch.float32
    assert 2 <= seen[0].min() < seen[0].max() <= 3


def test_local_training_happens_in_train_mode(net: Classifier, phases: PhaseRunner) -> None:
    modes: list[bool] = []
    net.register_forward_pre_hook(lambda module, _: modes.append(all(m.training for m in module.modules())))
    train(local_task(net.eval(), 0.1), phases, steps=2)
    assert modes == [True, True]
