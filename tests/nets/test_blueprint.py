import pickle
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import MLP, Blueprint, ResNet18, SmallCNN
from mosaic.nets.blueprint import ClassifierFactory
from mosaic.nets.classifier import Classifier, ImageShape
from tests.small_runs import LinearNet


def test_the_seed_decides_the_initial_weights(blueprint: Blueprint) -> None:
    first, again, other = (blueprint.initial(seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_building_leaves_the_global_random_state_alone(blueprint: Blueprint) -> None:
    before = torch.get_rng_state()
    blueprint.build(blueprint.initial(seed=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_weights_know_the_pixel_statistics(blueprint: Blueprint) -> None:
    state = blueprint.initial(0)
    assert (state["normalize.mean"].tolist(), state["normalize.std"].tolist()) == ([0.5], [0.25])


def test_a_network_gets_exactly_the_given_weights(blueprint: Blueprint) -> None:
    state = blueprint.initial(0)
    built = blueprint.build(state).state_dict()
    assert built.keys() == state.keys()
    assert all(torch.equal(built[name], state[name]) for name in state)


def test_networks_share_no_memory_with_each_other_or_the_given_weights(blueprint: Blueprint) -> None:
    state = blueprint.initial(0)
    first, second = blueprint.build(state), blueprint.build(state)
    kept = state["head.weight"].clone()
    with torch.no_grad():
        first.head.weight.zero_()
    assert torch.equal(second.head.weight, kept)
    assert torch.equal(state["head.weight"], kept)


@pytest.mark.parametrize(
    ("factory", "number"), [(partial(ResNet18, width=2), 20), (LinearNet, 0)], ids=["ResNet18", "no BatchNorm"]
)
def test_it_knows_where_its_statistics_are(factory: type[Classifier], number: int) -> None:
    blueprint = Blueprint(factory, (1, 8, 8), 3, (0.5,), (0.25,))
    kept = {name.removesuffix(".running_mean") for name in blueprint.initial(0) if name.endswith(".running_mean")}
    assert set(blueprint.batch_norms) == kept
    assert len(blueprint.batch_norms) == number


def test_looking_for_statistics_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert Blueprint(partial(ResNet18, width=2), (1, 8, 8), 3, (0.5,), (0.25,)).batch_norms
    assert torch.equal(torch.get_rng_state(), before)


def test_shapes_are_those_of_the_weights(blueprint: Blueprint) -> None:
    assert blueprint.shapes == {name: tensor.shape for name, tensor in blueprint.initial(0).items()}


# narrower networks


FACTORIES = pytest.mark.parametrize(
    "factory",
    [partial(SmallCNN, width=8), partial(ResNet18, width=4), partial(MLP, width=8)],
    ids=["SmallCNN", "ResNet18", "MLP"],
)


def of(factory: ClassifierFactory) -> Blueprint:
    return Blueprint(factory, (1, 8, 8), 3, (0.5,), (0.25,))


def sums(net: nn.Module) -> dict[str, nn.Module]:
    """The layers whose outputs are sums over channels."""
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


@FACTORIES
@pytest.mark.parametrize("training", [True, False])
def test_hidden_layers_give_their_share_and_the_head_all(
    factory: ClassifierFactory, training: bool, random: torch.Generator
) -> None:
    scaled = of(factory).scaled(0.25)
    plain = of(lambda *facts: factory(*facts).scaled(0.25))
    ours, theirs = (sums(each.build(scaled.initial(1)).train(training)) for each in (scaled, plain))
    assert ours.keys() == theirs.keys()
    assert len(ours) > 2
    first, *_ = ours
    for name, layer in ours.items():
        inputs = torch.randn(layer.weight.shape[1] if layer.weight.dim() == 2 else (2, layer.in_channels, 8, 8))
        torch.testing.assert_close(layer(inputs), theirs[name](inputs) / (1 if name in (first, "head") else 0.25))


@pytest.mark.parametrize("factory", [partial(ResNet18, width=16), partial(SmallCNN, width=16)], ids=["ResNet18", "CNN"])
def test_the_first_layers_running_statistics_are_those_of_the_whole_network(factory: ClassifierFactory) -> None:
    """Channels of a narrow network are averaged with the whole network's, which is how they must be normalised."""
    wide, images = of(factory), torch.rand(64, 1, 8, 8)
    whole, state = wide.build(wide.initial(0)).train(), wide.initial(0)
    narrow = wide.scaled(0.5)
    kept = {name: state[name][tuple(map(slice, shape))] for name, shape in narrow.shapes.items()}
    part = narrow.build(kept).train()
    whole(images)
    part(images)
    variance = next(name for name in narrow.shapes if name.endswith("running_var"))
    ours, theirs = part.state_dict()[variance], whole.state_dict()[variance]
    torch.testing.assert_close(ours, theirs[: len(ours)])


@pytest.mark.parametrize("factory", [partial(ResNet18, width=4), partial(MLP, width=8)], ids=["ResNet18", "MLP"])
def test_batch_norm_takes_the_factor_out_again_in_training(factory: ClassifierFactory, random: torch.Generator) -> None:
    scaled, plain = of(factory).scaled(0.5), of(lambda *facts: factory(*facts).scaled(0.5))
    state, images = scaled.initial(1), torch.rand(16, 1, 8, 8, generator=random)
    ours, theirs = scaled.build(state).train(), plain.build(state).train()
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(ours.eval()(images), theirs.eval()(images), rtol=1e-3, atol=1e-3)


def test_all_channels_are_the_network_itself(blueprint: Blueprint) -> None:
    assert blueprint.scaled(1) is blueprint


@FACTORIES
def test_a_narrower_blueprint_keeps_image_classes_and_pixel_statistics(factory: ClassifierFactory) -> None:
    scaled = of(factory).scaled(0.5)
    state = scaled.initial(0)
    assert (scaled.image_shape, scaled.num_classes) == ((1, 8, 8), 3)
    assert (state["normalize.mean"].tolist(), state["normalize.std"].tolist()) == ([0.5], [0.25])
    assert state.keys() == of(factory).shapes.keys()
    assert state["head.weight"].shape[0] == 3
    assert 2 * state["head.weight"].shape[1] == of(factory).shapes["head.weight"][1]


def test_a_narrower_blueprint_travels_to_another_process(random: torch.Generator) -> None:
    scaled = of(partial(SmallCNN, width=8)).scaled(0.5)
    images, state = torch.rand(3, 1, 8, 8, generator=random), scaled.initial(0)
    there: Blueprint = pickle.loads(pickle.dumps(scaled))
    assert torch.equal(there.build(state).eval()(images), scaled.build(state).eval()(images))


def test_another_network_for_the_same_images(blueprint: Blueprint) -> None:
    other = blueprint.with_factory(LinearNet)
    assert type(other.build(other.initial(0))) is LinearNet
    assert (other.image_shape, other.num_classes, other.mean, other.std) == ((1, 8, 8), 3, (0.5,), (0.25,))


class Peculiar(LinearNet):
    """A frozen weight, two names for one weight, and a buffer that no state dict has."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.twin = self.head
        self.register_buffer("grid", torch.arange(3.0), persistent=False)


def test_a_network_is_built_with_everything_but_its_weights_as_it_was_made() -> None:
    peculiar = Blueprint(Peculiar, (1, 2, 2), 3, (0.5,), (0.25,))
    net = cast(Peculiar, peculiar.build(peculiar.initial(0)))
    assert [weight.requires_grad for weight in (net.frozen.weight, net.head.weight)] == [False, True]
    assert net.twin is net.head
    assert torch.equal(net.get_buffer("grid"), torch.arange(3.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.bias": None}, "weights of another network: head.bias"),
        ({"tail.bias": torch.zeros(3)}, "weights of another network: tail.bias"),
        ({"head.bias": torch.zeros(7)}, r"weights of another network: head.bias has \(7,\), not \(3,\)"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    linear = Blueprint(LinearNet, (1, 2, 2), 3, (0.5,), (0.25,))
    changed = {name: tensor for name, tensor in (linear.initial(0) | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        linear.build(changed)
