import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import Blueprint, ResNet18
from mosaic.nets.batchnorm import batch_norm_inputs, batch_norms, held_statistics, recalibrate
from tests.networks import copy_of


def test_layers_are_found_by_type_even_in_shortcuts() -> None:
    net = ResNet18((1, 8, 8), 2, width=2)
    names = [name for name, _ in net.named_modules() if "downsample.1" in name]
    assert len(names) == 3
    assert set(names) <= batch_norms(net).keys()
    assert len(batch_norms(net)) == 1 + 16 + 3


def test_layers_go_by_their_place_in_the_net() -> None:
    net = ResNet18((1, 8, 8), 2, width=2)
    assert all(net.get_submodule(name) is layer for name, layer in batch_norms(net).items())
    assert all(f"{name}.running_var" in net.state_dict() for name in batch_norms(net))


def test_layers_without_statistics_are_left_out() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    assert batch_norms(net) == {"0": net[0]}


def test_what_flows_in_is_collected_with_its_gradient() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    images = torch.rand(4, 3, requires_grad=True)
    with batch_norm_inputs(net) as layers:
        net(images)
    ((inputs, mean, variance),) = layers
    assert torch.equal(inputs, net[0](images))
    assert inputs.requires_grad
    assert mean is net[1].running_mean
    assert variance is net[1].running_var


def test_outside_the_block_nothing_is_collected() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with batch_norm_inputs(net) as layers:
        pass
    net(torch.rand(4, 2))
    assert layers == []


class Pair(nn.Sequential):
    """PyTorch up to 2.9 compiles no network whose whole code is its own."""

    def forward(self, images: Tensor) -> Tensor:
        normalised: Tensor = super().forward(images)
        return normalised


def test_what_flows_into_a_compiled_network_is_collected_in_every_block() -> None:
    """Traced once with a hook, it would go on writing to the first block's list; outside it stays compiled."""
    net = Pair(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    traced: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        traced.append(graph)
        return graph.forward

    net.compile(backend=backend)
    net(torch.rand(4, 3))
    assert len(traced) == 1
    for images in torch.rand(3, 4, 3):
        with batch_norm_inputs(net) as layers:
            net(images)
        ((inputs, *_),) = layers
        assert torch.equal(inputs, net[0](images))
    net(torch.rand(4, 3))
    assert len(traced) == 1


def test_an_error_inside_the_block_removes_the_hooks() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with pytest.raises(KeyError), batch_norm_inputs(net) as layers:
        raise KeyError
    net(torch.rand(4, 2))
    assert layers == []


@pytest.mark.parametrize("modes", [(True, True), (True, False), (False, False)])
def test_held_statistics_neither_move_nor_depend_on_the_batch(modes: tuple[bool, bool]) -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    for layer, training in zip(net, modes, strict=True):
        layer.train(training)
    before, images = copy_of(net), torch.rand(6, 2)
    with held_statistics(net):
        together = net(images)
        torch.testing.assert_close(together[:1], net(images[:1]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert (net[0].training, net[1].training) == modes


def test_held_statistics_let_other_layers_train() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    with held_statistics(net):
        assert (net[0].training, net[1].training) == (False, True)
    assert net[0].training


def test_an_error_inside_the_block_gives_the_modes_back() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval())
    with pytest.raises(KeyError), held_statistics(net):
        raise KeyError
    assert (net[0].training, net[1].training) == (True, False)


def shift_and_scale(random: torch.Generator) -> nn.Sequential:
    """A net whose layers see plain affine maps of the images, so that numpy can follow."""
    net = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3), nn.BatchNorm1d(3, momentum=0.05))
    for layer in net:
        nn.init.uniform_(layer.weight, 0.5, 2.0, generator=random)
        nn.init.uniform_(layer.bias, -1.0, 1.0, generator=random)
        layer.running_mean.fill_(40.0)
        layer.running_var.fill_(9.0)
    return net


@pytest.mark.parametrize(
    ("images", "chunk", "used"),
    [(12, 4, 12), (10, 4, 10), (9, 4, 8), (7, 256, 7), (2, 1000, 2)],
    ids=["even chunks", "a smaller chunk", "a lone image", "one chunk", "two images"],
)
def test_recalibrated_statistics_are_the_mean_over_the_batches(
    random: torch.Generator, images: int, chunk: int, used: int
) -> None:
    net = shift_and_scale(random)
    seen = 3 + 2 * torch.randn(images, 3, generator=random)
    recalibrate(net, seen, chunk)
    batches = [batch.double().numpy() for batch in seen[:used].split(chunk)]
    for layer in net:
        means, variances = ([measure(batch) for batch in batches] for measure in (column_means, column_variances))
        np.testing.assert_allclose(layer.running_mean, np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.running_var, np.mean(variances, axis=0), rtol=1e-4)
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        batches = [(batch - batch.mean(0)) / np.sqrt(batch.var(0) + layer.eps) * weight + bias for batch in batches]


def column_means(batch: np.ndarray) -> np.ndarray:
    return batch.mean(0)


def column_variances(batch: np.ndarray) -> np.ndarray:
    """Unbiased, as BatchNorm keeps them."""
    return batch.var(0, ddof=1)


def test_recalibration_of_a_convolutional_net_is_that_of_its_first_layer_by_hand(
    blueprint: Blueprint, random: torch.Generator
) -> None:
    net = blueprint.build(blueprint.initial(0))
    images = torch.rand(20, 1, 8, 8, generator=random)
    recalibrate(net, images)
    convolution, first = net.body[0], next(iter(batch_norms(net).values()))
    outputs = convolution(net.normalize(images)).detach().double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
    np.testing.assert_allclose(first.running_mean, outputs.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.running_var, outputs.var(1, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_recalibration_changes_statistics_alone(blueprint: Blueprint, training: bool) -> None:
    net = blueprint.build(blueprint.initial(0)).train(training)
    momenta = [layer.momentum for layer in batch_norms(net).values()]
    before = copy_of(net)
    recalibrate(net, torch.rand(6, 1, 8, 8))
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert [layer.momentum for layer in batch_norms(net).values()] == momenta != []
    assert {module.training for module in net.modules()} == {training}
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_recalibration_draws_nothing_at_random(random: torch.Generator) -> None:
    """Else the statistics behind dropout depend on what has trained in this process before."""
    net, images = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.rand(8, 3, generator=random)
    stream = torch.get_rng_state()
    recalibrate(net, images)
    assert torch.equal(torch.get_rng_state(), stream)
    torch.testing.assert_close(net[2].running_mean, net[1](images).mean(0))


def test_what_was_measured_before_does_not_matter(random: torch.Generator) -> None:
    net, images = shift_and_scale(random), torch.rand(8, 3, generator=random)
    recalibrate(net, images)
    first = copy_of(net)
    recalibrate(net, 100 * torch.rand(5, 3, generator=random))
    recalibrate(net, images)
    assert all(torch.equal(tensor, first[name]) for name, tensor in net.state_dict().items())


def test_a_net_without_statistics_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).eval()
    before = copy_of(net)
    recalibrate(net, torch.rand(4, 3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.training
