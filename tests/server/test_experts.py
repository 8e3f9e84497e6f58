from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.losses.priors import label_prior
from mosaic.messages import StateDict, TrainReply
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint, FirstChannels, SmallCNN
from mosaic.nets.batchnorm import batch_norms
from mosaic.nets.gates import PriorGate
from mosaic.server.aggregation import weighted_mean
from mosaic.server.experts import Experts, class_shares, first_of_equal_rows
from mosaic.server.uploads import ClassMeans, KeptUploads, Uploads
from tests.cases import for_each
from tests.small_runs import LinearNet, same_models

Upload = Callable[[list[list[int]]], list[TrainReply]]


@pytest.fixture
def upload(blueprint: Blueprint) -> Upload:
    """Models of one client for each row of label counts."""

    def make(counts: list[list[int]]) -> list[TrainReply]:
        return [TrainReply(i, blueprint.initial(i), torch.tensor(row), {}, {}) for i, row in enumerate(counts)]

    return make


def take_in(uploads: Uploads, replies: list[TrainReply]) -> None:
    for reply in replies:
        uploads.add(reply)


def average(replies: list[TrainReply], pool: ModelPool, sent: StateDict) -> StateDict:
    uploads = Uploads(pool, 2, sent)
    take_in(uploads, replies)
    return uploads.average()


def class_experts(replies: list[TrainReply], pool: ModelPool, **options: Any) -> Experts:
    """Experts of averages of classes, in round 2."""
    means = ClassMeans(pool, 2, pool.blueprint.initial(99), **options)
    take_in(means, replies)
    return means.experts(0.01)


def client_experts(replies: list[TrainReply], pool: ModelPool, **options: Any) -> Experts:
    uploads = KeptUploads(pool, 2, pool.blueprint.initial(99), **options)
    take_in(uploads, replies)
    return uploads.experts(0.01)


@pytest.fixture
def three(blueprint: Blueprint) -> ModelPool:
    """Three clients with the global network."""
    return same_models(blueprint, 3)


def same_bits(net: nn.Module, state: StateDict) -> bool:
    ours = net.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[name], state[name]) for name in ours)


COUNTS = [
    torch.tensor([[4, 0, 1], [1, 5, 0]]),
    torch.tensor([[7, 0, 0], [0, 0, 2], [3, 0, 3]]),
    torch.tensor([[0, 0, 9]]),
]


@pytest.mark.parametrize("counts", COUNTS)
def test_every_class_is_spread_over_the_clients(counts: Tensor) -> None:
    spread = class_shares(counts)
    assert spread.shape == (counts.shape[1], counts.shape[0])
    assert (spread >= 0).all()
    torch.testing.assert_close(spread.sum(1), torch.ones(counts.shape[1]))


def test_class_shares_by_hand_with_class_zero_and_an_absent_class() -> None:
    assert class_shares(torch.tensor([[1, 0, 2], [3, 0, 0]])).tolist() == [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]


@pytest.mark.parametrize("counts", COUNTS)
def test_class_shares_follow_clients_and_classes_around(counts: Tensor) -> None:
    torch.testing.assert_close(class_shares(counts.flip(0)), class_shares(counts).flip(1))
    torch.testing.assert_close(class_shares(counts.flip(1)), class_shares(counts).flip(0))


def test_a_class_with_no_holder_gets_the_global_average_bit_for_bit(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[7, 0, 2], [0, 0, 5]])
    pool = class_experts(uploads, three)
    (expert,) = pool.authority[:, 1].nonzero().flatten().tolist()
    assert same_bits(pool.models[expert], average(uploads, three, {}))
    assert pool.prior.isfinite().all()


def test_a_class_of_one_client_gets_its_model_bit_for_bit(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[7, 3, 0], [0, 6, 5]])
    pool = class_experts(uploads, three)
    assert same_bits(pool.models[0], uploads[0].model)
    assert same_bits(pool.models[2], uploads[1].model)


def test_a_shared_class_gets_the_mean_by_images_of_that_class(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[100, 1, 0], [0, 3, 1]])
    pool = class_experts(uploads, three)
    expected = weighted_mean([u.model for u in uploads], [1, 3])
    assert same_bits(pool.models[1], expected)


def test_equal_rows_give_one_expert_that_speaks_for_all_their_classes(upload: Upload, three: ModelPool) -> None:
    pool = class_experts(upload([[2, 10, 1], [6, 30, 0]]), three)
    assert len(pool.models) == len(pool.names) == 2
    assert pool.authority.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_clients_with_the_same_classes_need_only_one_expert(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[3, 3, 3], [5, 5, 5]])
    pool = class_experts(uploads, three)
    assert len(pool.models) == 1
    assert same_bits(pool.models[0], average(uploads, three, {}))


def test_the_prior_of_an_average_is_the_average_of_the_priors(upload: Upload, three: ModelPool) -> None:
    pool = class_experts(upload([[1, 9, 0], [3, 0, 7]]), three)
    first, second = label_prior(torch.tensor([1, 9, 0]), 0.01), label_prior(torch.tensor([3, 0, 7]), 0.01)
    torch.testing.assert_close(pool.prior, torch.stack([0.25 * first + 0.75 * second, first, second]))


@for_each("form", [class_experts, client_experts])
@for_each("counts", [[[7, 0, 2], [0, 0, 5]], [[1, 9, 0], [3, 0, 7]], [[4, 4, 4]]])
@for_each("most", [None, 1, 2])
def test_experts_share_out_every_class(form, upload: Upload, three: ModelPool, counts, most) -> None:
    pool = form(upload(counts), three, most=most)
    experts = len(pool.models)
    assert experts <= (most or 3)
    assert len(pool.names) == experts
    assert pool.authority.shape == pool.prior.shape == pool.class_counts.shape == (experts, 3)
    torch.testing.assert_close(pool.authority.sum(0), torch.ones(3))
    torch.testing.assert_close(pool.prior.sum(1), torch.ones(experts))
    assert pool.prior.log().isfinite().all()


def test_client_experts_are_the_clients_models_bit_for_bit(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[7, 0, 2], [0, 0, 5], [1, 1, 1]])
    pool = client_experts(uploads, three)
    assert all(same_bits(net, reply.model) for net, reply in zip(pool.models, uploads, strict=True))
    assert pool.class_counts.tolist() == [[7, 0, 2], [0, 0, 5], [1, 1, 1]]
    assert pool.authority[:, 2].tolist() == [0.25, 0.625, 0.125]


def test_forming_experts_leaves_the_uploads_alone(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[1, 9, 0], [3, 0, 7]])
    before = [reply.model["head.weight"].clone() for reply in uploads]
    for form in (class_experts, client_experts):
        for net in form(uploads, three).models:
            torch.nn.init.zeros_(net.head.weight)
    assert all(torch.equal(reply.model["head.weight"], kept) for reply, kept in zip(uploads, before, strict=True))


@pytest.mark.parametrize(
    ("rows", "firsts", "groups"),
    [
        ([[1, 2]], [0], [0]),
        ([[1, 2], [2, 1], [1, 2], [2, 1], [0, 0]], [0, 1, 4], [0, 1, 0, 1, 2]),
        ([[3.0], [3.0], [3.0]], [0], [0, 0, 0]),
    ],
)
def test_equal_rows_form_groups_in_order_of_appearance(rows, firsts, groups) -> None:
    found = first_of_equal_rows(torch.tensor(rows))
    assert (found[0], found[1].tolist()) == (firsts, groups)


def test_heads_alone_are_the_heads_of_whole_experts(upload: Upload, three: ModelPool) -> None:
    uploads = upload([[4, 0, 1], [1, 5, 0]])
    whole = class_experts(uploads, three)
    heads = class_experts(uploads, three, heads_only=True)
    for expert, head in zip(whole.models, heads.models, strict=True):
        assert torch.equal(expert.head.weight, head.weight)
        assert torch.equal(expert.head.bias, head.bias)
    assert torch.equal(whole.authority, heads.authority)


def test_nothing_is_taken_out_for_a_class_that_nobody_holds(upload: Upload, three: ModelPool) -> None:
    pool = client_experts(upload([[9, 1, 0], [0, 5, 0]]), three)
    log_prior = pool.log_prior(adjusted=False)
    assert torch.equal(log_prior[:, 2], torch.zeros(2))
    assert torch.equal(log_prior[:, :2], pool.prior[:, :2].log())
    assert not pool.log_prior(adjusted=True).any()


def test_a_class_that_nobody_holds_does_not_win(upload: Upload, three: ModelPool) -> None:
    pool = client_experts(upload([[20, 5, 0], [5, 20, 0]]), three)
    sure = torch.tensor([0.997, 0.0025, 0.0005]).log().expand(1, 2, 3)
    assert PriorGate(pool.authority, pool.log_prior(adjusted=False))(sure).argmax() == 0


# BatchNorm statistics of averages


@pytest.fixture
def wandering(upload: Upload) -> Upload:
    """Uploads whose clients have seen different things: their statistics lie far apart."""

    def make(counts: list[list[int]]) -> list[TrainReply]:
        uploads = upload(counts)
        for client, reply in enumerate(uploads):
            random = torch.Generator().manual_seed(client)
            for name in reply.model:
                if name.endswith("running_mean"):
                    reply.model[name] = 3 * torch.randn(reply.model[name].shape, generator=random)
                elif name.endswith("running_var"):
                    reply.model[name] = 0.5 + torch.rand(reply.model[name].shape, generator=random)
        return uploads

    return make


def test_pooled_class_averages_by_hand(wandering: Upload, blueprint: Blueprint, three: ModelPool) -> None:
    """numpy's law of total variance, with the weights of each class: 100 and 1, 1 and 3, 0 and 1."""
    uploads = wandering([[100, 1, 0], [1, 3, 1]])
    pool = class_experts(uploads, three, pooled=True)
    assert len(blueprint.batch_norms) == 3
    for expert, weights in zip(pool.models, [[100, 1], [1, 3], [0, 1]], strict=True):
        for layer in blueprint.batch_norms:
            means, variances = (
                np.stack([reply.model[f"{layer}.running_{kind}"].double().numpy() for reply in uploads])
                for kind in ("mean", "var")
            )
            centre = np.average(means, axis=0, weights=weights)
            spread = np.average(variances, axis=0, weights=weights)
            spread += np.average((means - centre) ** 2, axis=0, weights=weights)
            state = expert.state_dict()
            np.testing.assert_allclose(state[f"{layer}.running_mean"], centre, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(state[f"{layer}.running_var"], spread, rtol=1e-5)


def changed_by_pooling(uploads: list[TrainReply], blueprint: Blueprint) -> list[dict[str, Tensor]]:
    """By how much pooling moves each tensor that it moves, for each expert."""
    plain, pooled = (class_experts(uploads, same_models(blueprint, 3), pooled=choice) for choice in (False, True))
    pairs = [(one.state_dict(), other.state_dict()) for one, other in zip(plain.models, pooled.models, strict=True)]
    return [
        {name: theirs[name] - ours[name] for name in ours if not same(ours, theirs, name)} for ours, theirs in pairs
    ]


def same(ours: StateDict, theirs: StateDict, name: str) -> bool:
    return torch.equal(ours[name], theirs[name])


def test_pooling_changes_variances_alone_and_only_upwards(wandering: Upload, blueprint: Blueprint) -> None:
    *shared, of_one_holder = changed_by_pooling(wandering([[100, 1, 0], [1, 3, 1]]), blueprint)
    assert of_one_holder == {}
    for changes in shared:
        assert changes.keys() == {f"{layer}.running_var" for layer in blueprint.batch_norms}
        assert all((change > 0).all() for change in changes.values())


def test_uploads_are_averaged_like_weights_unless_told_otherwise(wandering: Upload, three: ModelPool) -> None:
    uploads = wandering([[2, 1, 1], [0, 1, 1], [5, 1, 3]])
    expected = weighted_mean([reply.model for reply in uploads], [2, 0, 5])
    assert same_bits(class_experts(uploads, three).models[0], expected)


def test_heads_have_no_statistics_to_pool(wandering: Upload, three: ModelPool) -> None:
    pool = class_experts(wandering([[4, 0, 1], [1, 5, 0]]), three, heads_only=True, pooled=True)
    assert all(type(expert) is nn.Linear for expert in pool.models)


def test_pooling_leaves_the_uploads_alone(wandering: Upload, three: ModelPool) -> None:
    uploads = wandering([[100, 1, 0], [1, 3, 1]])
    before = [{name: tensor.clone() for name, tensor in reply.model.items()} for reply in uploads]
    for net in class_experts(uploads, three, pooled=True).models:
        for layer in batch_norms(net).values():
            layer.running_var.zero_()
    assert all(
        torch.equal(reply.model[name], kept[name])
        for reply, kept in zip(uploads, before, strict=True)
        for name in reply.model
    )


# the experts' heads


@for_each("form", [class_experts, client_experts])
@for_each("heads_only", [True, False])
def test_a_pool_knows_its_heads(form, heads_only: bool, upload: Upload, three: ModelPool) -> None:
    pool = form(upload([[4, 0, 1], [1, 5, 0]]), three, heads_only=heads_only)
    assert len(pool.heads) == len(pool.models) > 1
    for head, model in zip(pool.heads, pool.models, strict=True):
        assert head is (model if heads_only else model.head)
        assert (head.in_features, head.out_features) == (16, 3)


# clients with different models


LEVELS = [1.0, 0.5, 0.25]


def narrow_uploads(pool: ModelPool, counts: list[list[int]]) -> list[TrainReply]:
    return [
        TrainReply(client, pool.of(client).initial(client), torch.tensor(row), {}, {})
        for client, row in enumerate(counts)
    ]


def test_sub_models_are_experts_as_they_are(blueprint: Blueprint, random: torch.Generator) -> None:
    pool = ClientModels(levels=LEVELS).pool(blueprint, 3, seed=0)
    uploads = narrow_uploads(pool, [[4, 0, 1], [1, 5, 0], [0, 0, 3]])
    experts = client_experts(uploads, pool).models
    assert all(same_bits(net, reply.model) for net, reply in zip(experts, uploads, strict=True))
    images = torch.rand(5, 1, 8, 8, generator=random)
    for net, reply in zip(experts, uploads, strict=True):
        expected = pool.of(reply.client).build(reply.model).eval()(images)
        assert torch.equal(net.eval()(images), expected)


def test_experts_of_other_architectures_are_built_as_such(blueprint: Blueprint) -> None:
    factories = ["global", partial(SmallCNN, width=2), LinearNet]
    pool = ClientModels(models=factories).pool(blueprint, 3, seed=0)
    uploads = narrow_uploads(pool, [[4, 0, 1], [1, 5, 0], [0, 0, 3]])
    experts = client_experts(uploads, pool)
    assert [type(net) for net in experts.models] == [SmallCNN, SmallCNN, LinearNet]
    assert [head.in_features for head in experts.heads] == [16, 8, 64]
    assert all(same_bits(net, reply.model) for net, reply in zip(experts.models, uploads, strict=True))


def test_class_averages_of_sub_models_weigh_each_coordinate_by_hand(blueprint: Blueprint) -> None:
    """Class 0: a whole and a half model, 1 to 3. Class 1: the half model alone. Class 2: the whole model alone."""
    pool = ClientModels(levels=[1.0, 0.5], slicing=FirstChannels()).pool(blueprint, 2, seed=0)
    uploads = narrow_uploads(pool, [[1, 0, 4], [3, 2, 0]])
    averaged = average(uploads, pool, blueprint.initial(99))
    shared, narrow, whole = class_experts(uploads, pool).models
    name = "body.0.weight"  # four channels, of which the half model has two
    one, other = (reply.model[name] for reply in uploads)
    torch.testing.assert_close(shared.state_dict()[name][:2], 0.25 * one[:2] + 0.75 * other)
    assert torch.equal(shared.state_dict()[name][2:], one[2:])
    assert torch.equal(narrow.state_dict()[name][:2], other)
    assert torch.equal(narrow.state_dict()[name][2:], averaged[name][2:])
    assert same_bits(whole, uploads[0].model)


@pytest.mark.parametrize("levels", [[1.0], [1.0, 0.5, 0.25]], ids=str)
def test_a_class_that_all_hold_alike_gets_the_average_of_all(blueprint: Blueprint, levels: list[float]) -> None:
    pool = ClientModels(levels=levels, classifier_rows="all").pool(blueprint, 3, seed=0)
    uploads = narrow_uploads(pool, [[2, 2, 2], [5, 5, 5], [1, 1, 1]])
    (expert,) = class_experts(uploads, pool).models
    assert same_bits(expert, average(uploads, pool, blueprint.initial(99)))


def test_the_prior_of_an_average_counts_clients_by_their_images(blueprint: Blueprint) -> None:
    rows = [[1, 9, 0], [3, 0, 97]]
    replies = [TrainReply(i, blueprint.initial(i), torch.tensor(row), {}, {}) for i, row in enumerate(rows)]
    means = ClassMeans(same_models(blueprint, 2), 2, blueprint.initial(99))
    take_in(means, replies)
    first, second = (label_prior(torch.tensor(row), 0.01) for row in rows)
    torch.testing.assert_close(means.experts(0.01).prior, torch.stack([0.25 * first + 0.75 * second, first, second]))


def test_experts_take_the_epsilon_that_they_are_given(blueprint: Blueprint) -> None:
    uploads = KeptUploads(same_models(blueprint, 1), 2, blueprint.initial(99))
    take_in(uploads, [TrainReply(0, blueprint.initial(0), torch.tensor([3, 0, 1]), {}, {})])
    assert uploads.experts(1.0).prior[0].tolist() == pytest.approx([4 / 7, 1 / 7, 2 / 7])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, "all"),
        ({"heads_only": True}, "head"),
        ({"heads_only": True, "keep_models": True}, "all"),
    ],
)
def test_of_models_whose_heads_are_the_experts_nothing_else_is_kept(
    blueprint: Blueprint, options: dict[str, bool], kept: str
) -> None:
    uploads = KeptUploads(same_models(blueprint, 1), 2, blueprint.initial(99), **options)
    take_in(uploads, [TrainReply(0, blueprint.initial(0), torch.tensor([3, 0, 1]), {}, {})])
    names = {"all": set(blueprint.shapes), "head": {"head.weight", "head.bias"}}[kept]
    assert uploads.replies[0].model.keys() == names
