from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint, FirstChannels, RandomChannels, RollingWindow, SmallCNN
from mosaic.nets.slicing import Places, Slicing
from mosaic.server.aggregation import CoordinateMean, WeightedMean, pooled_variance, weighted_mean
from mosaic.server.uploads import Uploads
from tests.cases import for_each
from tests.small_runs import LinearNet, same_models

POOL = same_models(Blueprint(LinearNet, (1, 2, 2), 2, (0.0,), (1.0,)), 8)


def average(replies: Iterable[TrainReply], sent: StateDict, pool: ModelPool, round: int) -> StateDict:
    """What the server makes of these uploads."""
    uploads = Uploads(pool, round, sent)
    for each in replies:
        uploads.add(each)
    return uploads.average()


def reply(client: int, model: StateDict, counts: list[int]) -> TrainReply:
    return TrainReply(client, model, torch.tensor(counts), {}, {})


def random_model(random: torch.Generator) -> StateDict:
    scales = 10.0 ** torch.randint(-30, 30, (50,), generator=random)
    return {"w": torch.randn(50, generator=random) * scales, "steps": torch.randint(9, (), generator=random)}


def same_bits(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


@pytest.mark.parametrize("weight", [1, 3, 599, 12_345.678, 1e-3])
def test_one_client_gives_its_own_weights_back_bit_for_bit(random: torch.Generator, weight: float) -> None:
    model = random_model(random)
    assert same_bits(weighted_mean([model], [weight]), model)


@pytest.mark.parametrize("weights", [[1, 1, 1], [7, 13, 599], [3, 50_000, 11]])
def test_clients_that_agree_give_their_weights_back_bit_for_bit(random: torch.Generator, weights: list[int]) -> None:
    model = random_model(random)
    assert same_bits(weighted_mean([model] * 3, weights), model)


def test_it_is_numpys_weighted_average(random: torch.Generator) -> None:
    models = [torch.randn(4, 5, generator=random) for _ in range(3)]
    expected = np.average([model.numpy() for model in models], axis=0, weights=[5, 1, 2])
    np.testing.assert_allclose(weighted_mean([{"w": m} for m in models], [5, 1, 2])["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_tensors_are_summed_in_blocks_bit_for_bit(random: torch.Generator, layout: torch.memory_format) -> None:
    models = [torch.randn(61, 99, 7, 9, generator=random).to(memory_format=layout) for _ in range(3)]
    expected = sum(weight * model.double() for model, weight in zip(models, [5, 1, 2], strict=True)) / 8
    assert torch.equal(weighted_mean([{"w": m} for m in models], [5, 1, 2])["w"], expected.float())


def test_the_order_of_clients_hardly_matters(random: torch.Generator) -> None:
    models = [{"w": torch.randn(100, generator=random)} for _ in range(4)]
    forwards = weighted_mean(models, [1, 2, 3, 4])["w"]
    torch.testing.assert_close(weighted_mean(models[::-1], [4, 3, 2, 1])["w"], forwards, rtol=1e-6, atol=0)


def test_only_the_proportion_of_weights_matters(random: torch.Generator) -> None:
    models = [random_model(random) for _ in range(3)]
    assert same_bits(weighted_mean(models, [1, 2, 5]), weighted_mean(models, [64, 128, 320]))


def test_small_differences_survive_many_clients() -> None:
    models = [{"w": torch.tensor([1.0])}] * 1000 + [{"w": torch.tensor([1.0 + 2**-10])}] * 1000
    assert weighted_mean(models, [1] * 2000)["w"].item() == 1 + 2**-11


@pytest.mark.parametrize(
    ("tensors", "largest"),
    [
        ([torch.tensor(3), torch.tensor(9), torch.tensor(5)], torch.tensor(9)),
        ([torch.tensor([1, 8]), torch.tensor([2, 7]), torch.tensor([0, 0])], torch.tensor([2, 8])),
        ([torch.tensor(False), torch.tensor(True), torch.tensor(False)], torch.tensor(True)),
    ],
)
def test_integer_buffers_take_the_maximum(tensors: list[Tensor], largest: Tensor) -> None:
    result = weighted_mean([{"seen": tensor} for tensor in tensors], [100, 1, 1])["seen"]
    assert torch.equal(result, largest)
    assert result.dtype == largest.dtype


def test_batch_norm_statistics_are_averaged_like_weights() -> None:
    models = [{"bn.running_mean": torch.tensor([0.0])}, {"bn.running_mean": torch.tensor([8.0])}]
    assert weighted_mean(models, [3, 1])["bn.running_mean"].item() == 2


@for_each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    models = [{"w": torch.tensor([1.0], dtype=dtype)}, {"w": torch.tensor([2.0], dtype=dtype)}]
    result = weighted_mean(models, [1, 1])["w"]
    assert (result.dtype, result.item()) == (dtype, 1.5)


def test_a_model_of_weight_zero_leaves_no_trace() -> None:
    broken = {"w": torch.tensor([float("nan")]), "steps": torch.tensor(999)}
    fine = {"w": torch.tensor([2.0]), "steps": torch.tensor(1)}
    assert same_bits(weighted_mean([broken, fine, broken], [0, 5, 0]), fine)


def test_the_given_models_are_not_changed(random: torch.Generator) -> None:
    models = [random_model(random) for _ in range(3)]
    before = [{name: tensor.clone() for name, tensor in model.items()} for model in models]
    weighted_mean(models, [1, 2, 3])["w"].zero_()
    assert all(same_bits(*pair) for pair in zip(models, before, strict=True))


def test_models_can_arrive_one_by_one(random: torch.Generator) -> None:
    models, weights = [random_model(random) for _ in range(3)], [2, 9, 4]
    mean = WeightedMean()
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, weight)
    assert same_bits(mean.result(), weighted_mean(models, weights))


@pytest.mark.parametrize("weights", [[], [0, 0]])
def test_an_average_of_nothing_is_refused(weights: list[float]) -> None:
    mean = WeightedMean()
    for weight in weights:
        mean.add({"w": torch.ones(1)}, weight)
    assert mean.empty
    with pytest.raises(ValueError, match="at least one model of positive weight"):
        mean.result()


def test_a_missing_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weighted_mean([{"w": torch.ones(1)}] * 2, [1])


def test_clients_weigh_by_all_their_images_class_zero_included() -> None:
    replies = [reply(0, {"w": torch.tensor([0.0])}, [3, 0]), reply(1, {"w": torch.tensor([4.0])}, [0, 1])]
    assert average(iter(replies), {}, POOL, round=1)["w"].item() == 1


def test_when_nobody_replies_the_model_stays() -> None:
    sent = {"w": torch.ones(2)}
    assert average(iter([]), sent, POOL, round=1) is sent


# coordinates that not everybody holds


def whole(model: StateDict) -> Places:
    return {name: tuple(torch.arange(size) for size in tensor.shape) for name, tensor in model.items()}


@pytest.mark.parametrize("weights", [[3, 1, 4], [0, 7, 599], [1e-3, 12.5, 50_000]])
def test_with_whole_models_it_is_the_weighted_mean_bit_for_bit(random: torch.Generator, weights: list[float]) -> None:
    models, otherwise = [random_model(random) for _ in range(3)], random_model(random)
    otherwise["steps"].zero_()  # counts only grow
    mean = CoordinateMean(otherwise)
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, whole(model), weight)
    assert same_bits(mean.result(), weighted_mean(models, weights))


def test_coordinates_by_hand() -> None:
    """One client holds rows 0 and 2 of columns 0 and 1, another, of twice the weight, row 2 of columns 1 and 2."""
    mean = CoordinateMean({"w": torch.full((3, 3), -1.0)})
    mean.add({"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, {"w": (torch.tensor([0, 2]), torch.tensor([0, 1]))}, 1)
    mean.add({"w": torch.tensor([[10.0, 20.0]])}, {"w": (torch.tensor([2]), torch.tensor([1, 2]))}, 2)
    assert mean.result()["w"].tolist() == [[1, 2, -1], [-1, -1, -1], [3, 8, 20]]


def parts_of(random: torch.Generator) -> list[tuple[StateDict, Places, float]]:
    """Blocks of a 5 x 4 matrix, in any order of rows and columns, with a weight each."""
    parts = []
    for rows, columns, weight in [(2, 4, 3.0), (3, 1, 0.5), (5, 4, 0.0), (1, 2, 8.0), (3, 2, 1.0)]:
        where = torch.randperm(5, generator=random)[:rows], torch.randperm(4, generator=random)[:columns]
        parts.append(({"w": torch.randn(rows, columns, generator=random)}, {"w": where}, weight))
    return parts


def test_every_coordinate_is_averaged_over_those_that_hold_it(random: torch.Generator) -> None:
    """Against a loop over single coordinates."""
    otherwise, parts = torch.randn(5, 4, generator=random), parts_of(random)
    mean = CoordinateMean({"w": otherwise})
    for model, where, weight in parts:
        mean.add(model, where, weight)
    held: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for model, where, weight in parts:
        for (i, row), (j, column) in product(enumerate(where["w"][0].tolist()), enumerate(where["w"][1].tolist())):
            held.setdefault((row, column), []).append((weight, float(model["w"][i, j])))
    for place in product(range(5), range(4)):
        opinions = [(weight, value) for weight, value in held.get(place, []) if weight > 0]
        expected = float(otherwise[place])
        if opinions:
            expected = np.average([v for _, v in opinions], weights=[w for w, _ in opinions])
        assert mean.result()["w"][place].item() == pytest.approx(expected, rel=1e-6)


def test_the_order_of_parts_hardly_matters(random: torch.Generator) -> None:
    otherwise, parts = {"w": torch.zeros(5, 4)}, parts_of(random)
    forwards, backwards = CoordinateMean(otherwise), CoordinateMean(otherwise)
    for part, other in zip(parts, reversed(parts), strict=True):
        forwards.add(*part)
        backwards.add(*other)
    torch.testing.assert_close(forwards.result(), backwards.result(), rtol=1e-6, atol=0)


def test_a_coordinate_that_nobody_holds_keeps_its_value_bit_for_bit(random: torch.Generator) -> None:
    otherwise = random_model(random)
    mean = CoordinateMean(otherwise)
    assert same_bits(mean.result(), otherwise)
    mean.add({"w": torch.zeros(2)}, {"w": (torch.tensor([4, 30]),)}, 5)
    result = mean.result()["w"]
    untouched = torch.ones(50, dtype=torch.bool)
    untouched[[4, 30]] = False
    assert torch.equal(result[untouched], otherwise["w"][untouched])
    assert not result[~untouched].any()


def test_a_part_of_weight_zero_leaves_no_trace() -> None:
    broken = {"w": torch.tensor([float("nan")]), "steps": torch.tensor(999)}
    otherwise = {"w": torch.tensor([2.0, 3.0]), "steps": torch.tensor(4)}
    mean = CoordinateMean(otherwise)
    mean.add(broken, {"w": (torch.tensor([1]),), "steps": ()}, 0)
    assert same_bits(mean.result(), otherwise)


def test_integer_buffers_of_parts_take_the_maximum() -> None:
    mean = CoordinateMean({"steps": torch.tensor(3), "seen": torch.tensor([5, 0, 2])})
    mean.add({"steps": torch.tensor(7), "seen": torch.tensor([1])}, {"steps": (), "seen": (torch.tensor([1]),)}, 100)
    mean.add({"steps": torch.tensor(5), "seen": torch.tensor([9])}, {"steps": (), "seen": (torch.tensor([2]),)}, 1)
    result = mean.result()
    assert (result["steps"].item(), result["seen"].tolist()) == (7, [5, 1, 9])
    assert result["steps"].dtype == result["seen"].dtype == torch.long


def test_negative_whole_numbers_of_parts_are_kept() -> None:
    mean = CoordinateMean({"offset": torch.tensor(-5)})
    for offset in (-2, -1):
        mean.add({"offset": torch.tensor(offset)}, {"offset": ()}, 1)
    assert mean.result()["offset"].item() == -1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_parts_keep_their_type(dtype: torch.dtype) -> None:
    mean = CoordinateMean({"w": torch.zeros(2, dtype=dtype)})
    mean.add({"w": torch.tensor([1.5], dtype=dtype)}, {"w": (torch.tensor([1]),)}, 3)
    assert (mean.result()["w"].dtype, mean.result()["w"].tolist()) == (dtype, [0, 1.5])


def test_neither_parts_nor_the_old_model_are_changed(random: torch.Generator) -> None:
    otherwise, parts = {"w": torch.randn(5, 4, generator=random)}, parts_of(random)
    before = [otherwise["w"].clone(), *(model["w"].clone() for model, _, _ in parts)]
    mean = CoordinateMean(otherwise)
    for part in parts:
        mean.add(*part)
    mean.result()["w"].zero_()
    after = [otherwise["w"], *(model["w"] for model, _, _ in parts)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


# the classifier's rows


def test_rows_of_the_classifier_by_hand() -> None:
    """Class 0 is held by the first client alone, class 1 by both, class 2 by nobody; the body knows no classes."""
    otherwise = {
        "body.weight": torch.zeros(1),
        "head.weight": torch.full((3, 2), 9.0),
        "head.bias": torch.full((3,), 9.0),
    }
    mean = CoordinateMean(otherwise)
    for value, weight, rows in [(1.0, 1, [1, 1, 0]), (5.0, 3, [0, 3, 0])]:
        model = {name: torch.full_like(tensor, value) for name, tensor in otherwise.items()}
        mean.add(model, whole(model), weight, torch.tensor(rows))
    result = mean.result()
    assert result["body.weight"].tolist() == [4]
    assert result["head.weight"].tolist() == [[1, 1], [4, 4], [9, 9]]
    assert result["head.bias"].tolist() == [1, 4, 9]


def test_rows_of_a_narrow_classifier_by_hand() -> None:
    """The narrow client has the second feature only and holds class 0 only."""
    mean = CoordinateMean({"head.weight": torch.full((2, 2), 9.0)})
    rows = torch.arange(2)
    mean.add({"head.weight": torch.ones(2, 2)}, {"head.weight": (rows, rows)}, 1, torch.tensor([1, 1]))
    narrow = {"head.weight": (rows, torch.tensor([1]))}
    mean.add({"head.weight": torch.full((2, 1), 5.0)}, narrow, 3, torch.tensor([3, 0]))
    assert mean.result()["head.weight"].tolist() == [[1, 4], [1, 1]]


def test_a_head_of_several_layers_has_no_rows() -> None:
    mean = CoordinateMean({"head.0.weight": torch.full((2, 2), 9.0)})
    for value, weight, rows in [(1.0, 1, [1, 0]), (5.0, 3, [0, 3])]:
        model = {"head.0.weight": torch.full((2, 2), value)}
        mean.add(model, whole(model), weight, torch.tensor(rows))
    assert mean.result()["head.0.weight"].tolist() == [[4, 4], [4, 4]]


# averages of a pool


RULES = pytest.mark.parametrize(
    "rule", [FirstChannels(), RandomChannels(), RollingWindow()], ids=lambda r: type(r).__name__
)
ROWS = pytest.mark.parametrize("rows", ["holders", "all"])


def pool_of(blueprint: Blueprint, **settings: Any) -> ModelPool:
    return ClientModels(**settings).pool(blueprint, 3, seed=0)


def replies_of(pool: ModelPool, counts: list[list[int]], round: int = 2) -> list[TrainReply]:
    """Each client has trained its part to something of its own."""
    models = [pool.of(client).initial(client) for client in range(3)]
    return [reply(client, model, row) for client, (model, row) in enumerate(zip(models, counts, strict=True))]


@RULES
@ROWS
def test_what_nobody_has_trained_comes_back_bit_for_bit(blueprint: Blueprint, rule: Slicing, rows: Any) -> None:
    """Every coordinate is cut out, sent, averaged with itself and put back where it came from."""
    pool = pool_of(blueprint, levels=[1.0, 0.5, 0.25], slicing=rule, classifier_rows=rows)
    model = blueprint.initial(7)
    counts = [[5, 0, 2], [1, 3, 0], [0, 0, 9]]
    replies = [reply(client, pool.part(model, client, 3), counts[client]) for client in range(3)]
    assert same_bits(average(replies, model, pool, round=3), model)


@RULES
def test_the_average_follows_every_client_to_its_own_coordinates(blueprint: Blueprint, rule: Slicing) -> None:
    """The first convolution, channel by channel, against numpy."""
    pool = pool_of(blueprint, levels=[1.0, 0.5, 0.25], slicing=rule)
    replies = replies_of(pool, [[5, 0, 2], [1, 3, 0], [0, 0, 9]])
    averaged = average(replies, blueprint.initial(7), pool, round=2)["body.0.weight"]
    for channel in range(4):
        held = []
        for each in replies:
            channels = pool.places(each.client, 2)["body.0.weight"][0].tolist()
            if channel in channels:
                held.append((each.num_examples, each.model["body.0.weight"][channels.index(channel)].numpy()))
        expected = np.average([values for _, values in held], axis=0, weights=[weight for weight, _ in held])
        np.testing.assert_allclose(averaged[channel], expected, rtol=1e-5, atol=1e-7)


def test_what_no_client_of_the_round_holds_keeps_its_value(blueprint: Blueprint) -> None:
    pool, model = pool_of(blueprint, levels=[0.5], slicing=FirstChannels()), blueprint.initial(7)
    averaged = average(replies_of(pool, [[1, 1, 1]] * 3), model, pool, round=2)
    assert torch.equal(averaged["body.0.weight"][2:], model["body.0.weight"][2:])
    assert not torch.isclose(averaged["body.0.weight"][:2], model["body.0.weight"][:2]).any()
    assert torch.equal(averaged["body.7.running_var"][4:], model["body.7.running_var"][4:])


def test_rows_of_the_classifier_are_averaged_over_holders_or_over_all(blueprint: Blueprint) -> None:
    """With all features in common: 5 + 0, 0 + 3 and 2 + 1 images of three classes, 7 and 4 of all."""
    counts, model = [[5, 0, 2], [0, 3, 1], [0, 0, 0]], blueprint.initial(7)
    biases = {}
    for rows in ("holders", "all"):
        pool = pool_of(blueprint, levels=[1.0, 1.0, 0.5], classifier_rows=rows)
        replies = replies_of(pool, counts)
        biases[rows] = average(replies, model, pool, round=2)["head.bias"]
    one, other = (each.model["head.bias"] for each in replies[:2])
    everybody = (7 * one + 4 * other) / 11
    torch.testing.assert_close(biases["all"], everybody)
    torch.testing.assert_close(biases["holders"], torch.stack([one[0], other[1], everybody[2]]))


def test_a_pool_of_equal_models_is_fedavg_bit_for_bit(blueprint: Blueprint) -> None:
    counts, model = [[5, 0, 2], [0, 3, 1], [2, 2, 2]], blueprint.initial(7)
    equal = pool_of(blueprint, levels=[1.0, 1.0], classifier_rows="all")
    replies = replies_of(equal, counts)
    expected = average(replies, model, same_models(blueprint, 3), round=2)
    assert same_bits(average(replies, model, equal, round=2), expected)
    pool = pool_of(blueprint, levels=[1.0, 1.0, 0.5], classifier_rows="all")
    of_two = average(replies[:2], model, pool, round=2)  # the path by coordinates, with nobody who is narrow
    assert same_bits(of_two, average(replies[:2], model, same_models(blueprint, 3), round=2))


def test_other_architectures_are_left_out(blueprint: Blueprint) -> None:
    pool = pool_of(blueprint, models=["global", partial(SmallCNN, width=2), "global"])
    replies, model = replies_of(pool, [[1, 0, 0], [50, 50, 50], [0, 0, 3]]), blueprint.initial(7)
    expected = weighted_mean([replies[0].model, replies[2].model], [1, 3])
    assert same_bits(average(replies, model, pool, round=2), expected)
    silent = [reply(each.client, {} if each.client == 1 else each.model, [0, 0, 5]) for each in replies]
    assert same_bits(average(silent, model, pool, round=2), weighted_mean([replies[0].model, replies[2].model], [1, 1]))


def test_where_all_have_their_own_architecture_the_model_stays(blueprint: Blueprint) -> None:
    pool = pool_of(blueprint, models=[LinearNet])
    model = blueprint.initial(7)
    assert average(replies_of(pool, [[1, 0, 0]] * 3), model, pool, round=2) is model


# pooled variance


def groups_of(random: torch.Generator, sizes: list[int]) -> list[Tensor]:
    """Samples of three channels, each group around its own mean with its own spread."""
    return [
        10 * torch.randn(3, generator=random) + (client + 1) * torch.randn(size, 3, generator=random)
        for client, size in enumerate(sizes)
    ]


def moments(groups: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    means, variances = (torch.stack([measure(group) for group in groups]) for measure in (mean_of, variance_of))
    return means, variances, torch.tensor([len(group) for group in groups])


def mean_of(group: Tensor) -> Tensor:
    return group.mean(0)


def variance_of(group: Tensor) -> Tensor:
    return group.var(0, unbiased=False)


@pytest.mark.parametrize("sizes", [[5, 5], [40, 3, 200], [1, 1, 1, 1], [7]])
def test_pooled_variance_is_numpys_variance_of_all_samples_together(random: torch.Generator, sizes: list[int]) -> None:
    groups = groups_of(random, sizes)
    expected = np.concatenate([group.numpy() for group in groups]).astype(np.float64).var(axis=0)
    np.testing.assert_allclose(pooled_variance(*moments(groups)), expected, rtol=1e-5)


def test_pooled_variance_adds_the_spread_of_the_means(random: torch.Generator) -> None:
    means, variances, sizes = moments(groups_of(random, [40, 3, 200]))
    averaged = weighted_mean([{"v": variance} for variance in variances], sizes.tolist())["v"]
    assert (pooled_variance(means, variances, sizes) > 1.01 * averaged).all()


@pytest.mark.parametrize("weights", [[1, 1, 1], [7, 13, 599], [3, 50_000, 11]])
def test_clients_that_agree_give_their_variance_back_bit_for_bit(random: torch.Generator, weights: list[int]) -> None:
    mean, variance = 1e4 * torch.randn(50, generator=random), torch.rand(50, generator=random)
    pooled = pooled_variance(mean.expand(3, -1), variance.expand(3, -1), torch.tensor(weights))
    assert torch.equal(pooled, variance)


def test_a_spread_that_is_small_beside_the_means_is_not_lost() -> None:
    means, variances = torch.tensor([[1e4], [1e4 + 1]]), torch.tensor([[0.5], [0.5]])
    assert pooled_variance(means, variances, torch.tensor([1, 1])).item() == pytest.approx(0.75)


def test_groups_of_weight_zero_do_not_count(random: torch.Generator) -> None:
    means, variances = torch.randn(3, 4, generator=random), torch.rand(3, 4, generator=random)
    assert torch.equal(pooled_variance(means, variances, torch.tensor([0, 8, 0])), variances[1])


def test_pooled_variance_follows_neither_the_order_nor_the_scale_of_weights(random: torch.Generator) -> None:
    means, variances, sizes = moments(groups_of(random, [40, 3, 200]))
    pooled = pooled_variance(means, variances, sizes)
    torch.testing.assert_close(pooled_variance(means.flip(0), variances.flip(0), sizes.flip(0)), pooled)
    torch.testing.assert_close(pooled_variance(means, variances, 64 * sizes), pooled)
    torch.testing.assert_close(pooled_variance(means + 5, variances, sizes), pooled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_pooled_variance_keeps_its_type(dtype: torch.dtype) -> None:
    pooled = pooled_variance(torch.tensor([[0.0], [2.0]], dtype=dtype), torch.ones(2, 1, dtype=dtype), torch.ones(2))
    assert (pooled.dtype, pooled.tolist()) == (dtype, [2.0])
