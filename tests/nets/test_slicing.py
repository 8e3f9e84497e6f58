import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from mosaic.messages import StateDict
from mosaic.nets import MLP, Blueprint, FirstChannels, RandomChannels, ResNet18, RollingWindow, SmallCNN
from mosaic.nets.blueprint import ClassifierFactory
from mosaic.nets.classifier import ImageShape
from mosaic.nets.slicing import Places, Slicing, grid, narrower, places, take
from tests.cases import for_each

RULES = pytest.mark.parametrize(
    "rule", [FirstChannels(), RandomChannels(), RollingWindow()], ids=lambda r: type(r).__name__
)


# rules


@RULES
@pytest.mark.parametrize(("total", "kept"), [(1, 1), (7, 3), (16, 4), (16, 16), (64, 63)])
def test_channels_are_different_ones_of_those_that_there_are(rule: Slicing, total: int, kept: int) -> None:
    for round in (1, 2, total, 1000):
        channels = rule.channels(total, kept, round, seed=round).tolist()
        assert len(channels) == len(set(channels)) == kept
        assert all(0 <= channel < total for channel in channels)


@RULES
def test_the_same_client_in_the_same_round_has_the_same_channels(rule: Slicing) -> None:
    assert torch.equal(rule.channels(16, 8, round=3, seed=5), rule.channels(16, 8, round=3, seed=5))


@for_each("level", [1.0, 0.5, 0.25, 0.3])
def test_heterofl_keeps_the_first_channels_in_every_round(level: float) -> None:
    for total in (8, 20, 64):
        kept = math.ceil(level * total)
        expected = np.arange(total)[:kept].tolist()
        assert all(
            FirstChannels().channels(total, kept, round, 7 * round).tolist() == expected for round in range(1, 9)
        )


def test_federated_dropout_draws_other_channels_for_every_client_and_round() -> None:
    drawn = {tuple(RandomChannels().channels(64, 32, round=1, seed=seed).tolist()) for seed in range(20)}
    assert len(drawn) == 20


def test_federated_dropout_draws_all_channels_alike() -> None:
    draws = torch.cat([RandomChannels().channels(8, 2, round=1, seed=seed) for seed in range(2000)])
    shares = torch.bincount(draws, minlength=8) / 2000
    assert (shares - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 2000)


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    RandomChannels().channels(8, 2, round=1, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("total", "kept"), [(5, 2), (16, 4), (6, 6)])
def test_a_rolling_window_is_numpys_roll(total: int, kept: int) -> None:
    for round in range(1, 3 * total):
        expected = np.roll(np.arange(total), round % total)[:kept]
        assert RollingWindow().channels(total, kept, round, seed=0).tolist() == expected.tolist()


@for_each(("total", "kept"), [(5, 2), (16, 4), (7, 1)])
@for_each("first", [1, 4])
def test_a_rolling_window_visits_every_channel_equally_often(total: int, kept: int, first: int) -> None:
    visits = torch.cat([RollingWindow().channels(total, kept, round, 0) for round in range(first, first + total)])
    assert torch.bincount(visits, minlength=total).tolist() == [kept] * total


@for_each("twentieths", range(1, 21))
def test_narrower_is_the_exact_ceiling_of_the_share(twentieths: int) -> None:
    for channels in range(1, 200):
        assert narrower(channels, twentieths / 20) == math.ceil(Fraction(twentieths, 20) * channels)


@pytest.mark.parametrize("ratio", [0.01, 1e-6, 1e-12])
def test_however_narrow_one_channel_is_left(ratio: float) -> None:
    assert narrower(1, ratio) == narrower(8, ratio) == 1


# places


def shapes(**tensors: tuple[int, ...]) -> dict[str, torch.Size]:
    return {name: torch.Size(shape) for name, shape in tensors.items()}


@RULES
def test_a_dimension_that_is_whole_keeps_its_order(rule: Slicing) -> None:
    """Image channels and classes, which no rule may shuffle, and a tensor without dimensions."""
    wide, narrow = shapes(conv=(8, 3, 3, 3), head=(10, 8), steps=()), shapes(conv=(4, 3, 3, 3), head=(10, 4), steps=())
    where = places(wide, narrow, {}, rule, round=5, seed=1)
    whole = [where["conv"][1], where["conv"][2], where["conv"][3], where["head"][0]]
    assert [index.tolist() for index in whole] == [[0, 1, 2]] * 3 + [list(range(10))]
    assert where["steps"] == ()
    assert len(where["conv"][0]) == len(where["head"][1]) == 4


@RULES
def test_equally_wide_layers_keep_the_same_channels(rule: Slicing) -> None:
    wide, narrow = shapes(one=(8, 16), two=(16, 8), three=(16,)), shapes(one=(4, 8), two=(8, 4), three=(8,))
    where = places(wide, narrow, {}, rule, round=3, seed=9)
    assert torch.equal(where["one"][0], where["two"][1])
    assert torch.equal(where["one"][1], where["two"][0])
    assert torch.equal(where["two"][0], where["three"][0])


@RULES
def test_inputs_after_flattening_come_in_whole_blocks(rule: Slicing) -> None:
    """Each of six channels has been flattened to nine inputs: a channel that is kept keeps all nine, in their order."""
    where = places(shapes(c=(6,), w=(5, 54)), shapes(c=(3,), w=(5, 27)), {"w": 9}, rule, round=2, seed=4)
    blocks = np.arange(54).reshape(6, 9)[where["c"][0].numpy()]
    assert where["w"][1].tolist() == blocks.flatten().tolist()


@RULES
@pytest.mark.parametrize("kept", [(4, 2, 3), (1, 6, 5), (4, 6, 5)])
def test_taking_and_putting_back_is_the_identity_on_what_is_held(rule: Slicing, kept: tuple[int, ...]) -> None:
    wide = {"w": torch.arange(120.0).view(4, 6, 5), "steps": torch.tensor(7)}
    narrow = {"w": torch.Size(kept), "steps": torch.Size(())}
    where = places({name: tensor.shape for name, tensor in wide.items()}, narrow, {}, rule, round=2, seed=3)
    part = take(wide, where)
    assert part["w"].shape == kept
    back = torch.full((4, 6, 5), -1.0)
    back[grid(where["w"])] = part["w"]
    held = back >= 0
    assert held.sum() == math.prod(kept)
    assert torch.equal(back[held], wide["w"][held])
    assert part["steps"] == 7


# sub-models of real networks


def blueprint_of(factory: ClassifierFactory, image_shape: ImageShape) -> Blueprint:
    return Blueprint(factory, image_shape, 3, (0.5,) * image_shape[0], (0.25,) * image_shape[0])


def random_state(blueprint: Blueprint, random: torch.Generator) -> StateDict:
    """Weights and statistics that are all unlike each other, so that nothing is swapped unnoticed."""
    state = blueprint.initial(0)
    for name, tensor in state.items():
        if name.endswith(("running_var", "normalize.std")):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=random)
        elif tensor.is_floating_point():
            inputs = tensor.numel() // len(tensor) if tensor.dim() > 1 else 1
            state[name] = torch.randn(tensor.shape, generator=random) * (2 / inputs) ** 0.5
    return state


def put_back(part: StateDict, where: Places, blueprint: Blueprint) -> StateDict:
    """The wide network in which only a part lives: whatever the part has not is zero."""
    alone = {name: torch.zeros_like(tensor) for name, tensor in blueprint.initial(0).items()}
    for name, tensor in part.items():
        alone[name][grid(where[name])] = tensor
    return alone


NETS = pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (partial(SmallCNN, width=16), (1, 8, 8)),
        (partial(SmallCNN, width=16), (3, 28, 28)),
        (partial(ResNet18, width=16), (1, 8, 8)),
        (partial(MLP, width=40), (1, 4, 4)),
    ],
    ids=["SmallCNN, 2x2 blocks", "SmallCNN, 4x4 blocks", "ResNet18", "MLP"],
)


@RULES
@NETS
@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_a_sub_model_is_the_wide_network_with_the_other_channels_silenced(
    rule: Slicing, factory: ClassifierFactory, shape: ImageShape, ratio: float, random: torch.Generator
) -> None:
    """Were any layer cut at other channels than the next one listens to, the two would not say the same."""
    wide = blueprint_of(factory, shape)
    narrow = blueprint_of(lambda *facts: factory(*facts).scaled(ratio), shape)  # without the scaler
    where = places(wide.shapes, narrow.shapes, wide.input_blocks, rule, round=3, seed=8)
    part = take(random_state(wide, random), where)
    images = torch.rand(4, *shape, generator=random).double()
    with torch.no_grad():
        ours, alone = (net.double().eval() for net in (narrow.build(part), wide.build(put_back(part, where, wide))))
        kept = where["head.weight"][1]
        features = alone.features(images)
        torch.testing.assert_close(features[:, kept], ours.features(images), rtol=1e-9, atol=1e-9)
        assert not features[:, np.setdiff1d(np.arange(features.shape[1]), kept)].any()
        torch.testing.assert_close(alone(images), ours(images), rtol=1e-9, atol=1e-9)
        assert ours(images).std(0).max() > 1e-3


@RULES
def test_kept_inputs_of_the_first_linear_layer_belong_to_kept_feature_maps(rule: Slicing) -> None:
    wide = blueprint_of(partial(SmallCNN, width=6), (1, 28, 28))
    narrow = wide.scaled(0.5)
    where = places(wide.shapes, narrow.shapes, wide.input_blocks, rule, round=3, seed=8)
    inputs = torch.arange(12 * 4 * 4).view(12, 4, 4)  # feature maps after pooling, as they are flattened
    assert torch.equal(where["body.11.weight"][1], inputs[where["body.6.weight"][0]].flatten())


@NETS
def test_a_whole_sub_model_is_the_network_itself(
    factory: ClassifierFactory, shape: ImageShape, random: torch.Generator
) -> None:
    wide = blueprint_of(factory, shape)
    where = places(wide.shapes, wide.scaled(1.0).shapes, wide.input_blocks, RollingWindow(), round=3, seed=8)
    state = random_state(wide, random)
    part = take(state, where)
    assert all(torch.equal(part[name], state[name]) for name in state)


def test_a_shortcut_adds_up_the_same_channels() -> None:
    """What a block adds must be what it is added to: every convolution of a stage ends in the same channels."""
    wide = blueprint_of(partial(ResNet18, width=4), (1, 8, 8))
    where = places(wide.shapes, wide.scaled(0.5).shapes, {}, RandomChannels(), round=1, seed=2)
    ends: dict[int, set[tuple[int, ...]]] = {}
    for name, indices in where.items():
        if name.endswith("weight") and not name.startswith("head"):
            total = wide.shapes[name][0]
            ends.setdefault(total, set()).add(tuple(indices[0].tolist()))
    assert ends.keys() == {4, 8, 16, 32}
    assert all(len(channels) == 1 for channels in ends.values())


def test_tensors_of_a_part_have_the_shapes_of_its_network(random: torch.Generator) -> None:
    wide = blueprint_of(partial(ResNet18, width=4), (1, 8, 8))
    narrow = wide.scaled(0.3)
    part: dict[str, Tensor] = take(
        random_state(wide, random), places(wide.shapes, narrow.shapes, {}, RollingWindow(), round=1, seed=2)
    )
    assert {name: tensor.shape for name, tensor in part.items()} == narrow.shapes
