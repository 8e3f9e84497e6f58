"""New heads made from prototypes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mosaic.messages import PrototypeReply, StateDict
from mosaic.nets import Blueprint, Classifier, SmallCNN
from mosaic.nets.classifier import ImageShape
from mosaic.nets.discriminant import linear_discriminant
from mosaic.server.new_head import can_have_new_head, offer_new_head, with_new_head, without_new_head
from mosaic.server.state import ServerState
from tests.server.test_acceptance import judgement
from tests.small_runs import pool_of_kind

BLUEPRINT = Blueprint(SmallCNN, (1, 8, 8), 3, (0.5,), (0.5,))
MODEL = BLUEPRINT.initial(seed=0)


class Clients:
    """Two clients; these prototypes are theirs, and they judge the first model as they are told, others likewise."""

    def __init__(self, labels: list[list[int]], right: tuple[int, int] = (5, 5)) -> None:
        self.right, self.asked = right, 0
        self.summarised: list[StateDict] = []
        width = MODEL["head.weight"].shape[1]
        random = torch.Generator().manual_seed(0)
        self.replies = [
            PrototypeReply(
                client,
                torch.randn(len(own), width, generator=random),
                torch.tensor(own, dtype=torch.int64),
                torch.full((len(own),), 5),
            )
            for client, own in enumerate(labels)
        ]

    def prototypes(self, model: StateDict) -> list[PrototypeReply]:
        self.summarised.append(model)
        return self.replies

    def evaluate(self, model: StateDict) -> Any:
        self.asked += 1
        return judgement({0: self.right[self.asked - 1]})


def asked(clients: Clients) -> tuple[Any, Any]:
    from contextlib import nullcontext

    recorder = SimpleNamespace(scalar=lambda *_: None)
    context: Any = SimpleNamespace(
        plan=SimpleNamespace(round=3),
        blueprint=BLUEPRINT,
        pool=pool_of_kind("same"),
        recorder=recorder,
        timed=lambda _: nullcontext(),
        observe=lambda *_: None,
    )
    return clients, context


def test_the_head_alone_changes_and_its_logits_spread_as_before() -> None:
    clients, context = asked(Clients([[0, 1, 1, 0, 2], [2, 2, 1]]))
    model = with_new_head(MODEL, clients, context)
    assert model is not None
    assert {name for name in MODEL if not torch.equal(MODEL[name], model[name])} == {"head.weight", "head.bias"}
    prototypes = torch.cat([reply.prototypes for reply in clients.replies])
    old, new = (
        (prototypes @ each["head.weight"].T + each["head.bias"]).std(1).mean().item() for each in (MODEL, model)
    )
    assert new == pytest.approx(old, rel=1e-4)


def test_a_head_without_any_spread_is_no_measure() -> None:
    flat = {**MODEL, "head.weight": 0 * MODEL["head.weight"], "head.bias": 0 * MODEL["head.bias"]}
    model = with_new_head(flat, *asked(Clients([[0, 1, 1, 0, 2]])))
    assert model is not None
    assert model["head.weight"].abs().sum() > 0


def test_classes_without_prototypes_keep_their_logits_beside_the_mean_of_the_others() -> None:
    clients, context = asked(Clients([[0, 2], [2, 0, 2]]))
    model = with_new_head(MODEL, clients, context)
    assert model is not None
    features = torch.cat([reply.prototypes for reply in clients.replies])
    old, new = (features @ each["head.weight"].T + each["head.bias"] for each in (MODEL, model))
    others = [0, 2]
    assert torch.allclose(*(logits[:, 1] - logits[:, others].mean(1) for logits in (old, new)), atol=1e-5)
    assert not torch.allclose(*(logits[:, 0] - logits[:, others].mean(1) for logits in (old, new)), atol=1e-2)


@pytest.mark.parametrize("labels", [[], [[]], [[1, 1], []], [[2], [2, 2]]])
def test_prototypes_of_one_class_make_no_head(labels: list[list[int]]) -> None:
    assert with_new_head(MODEL, *asked(Clients(labels))) is None


@pytest.mark.parametrize(("right", "taken"), [((5, 6), True), ((5, 5), True), ((6, 5), False)])
def test_clients_decide(right: tuple[int, int], taken: bool) -> None:
    clients, context = asked(Clients([[0, 1], [2, 2, 1]], right))
    state = offer_new_head(ServerState(MODEL), clients, context)
    assert torch.equal(state.model["head.weight"], MODEL["head.weight"]) != taken
    assert clients.asked == 2


class Twice(SmallCNN):
    """A head that a list of all layers holds too, under a later name."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.layers = nn.ModuleList([self.head])


def test_a_head_of_two_names_is_replaced_and_taken_back_under_both() -> None:
    clients, context = asked(Clients([[0, 1], [2, 2, 1]], (5, 6)))
    context.blueprint = BLUEPRINT.with_factory(Twice)
    before = context.blueprint.initial(0)
    after = offer_new_head(ServerState(before), clients, context)
    for state, same in ((after, False), (without_new_head(after), True)):
        assert torch.equal(state.model["head.weight"], state.model["layers.0.weight"])
        assert torch.equal(state.model["head.weight"], before["head.weight"]) == same


class Elsewhere(Classifier):
    """A linear head whose tensors have another name."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body, self.last = nn.Flatten(), nn.Linear(64, num_classes)

    @property
    def head(self) -> nn.Linear:  # type: ignore[override]
        return self.last


class Whole(Classifier):
    """No features at all."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.all = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.all(images.flatten(1))
        return logits


@pytest.mark.parametrize("net", [Elsewhere, Whole])
def test_a_network_without_such_a_head_goes_without(net: type[Classifier]) -> None:
    assert not can_have_new_head(net((1, 8, 8), 3), pool_of_kind("same"))


def test_it_needs_a_network_that_all_clients_can_run() -> None:
    net = BLUEPRINT.build(MODEL)
    assert all(can_have_new_head(net, pool_of_kind(kind)) for kind in ("same", "widths", "architectures"))
    assert not can_have_new_head(net, pool_of_kind("widths", evaluate_whole=False))
    assert can_have_new_head(net, pool_of_kind("same", evaluate_whole=False))


def test_prototypes_of_a_new_head_count_as_their_images() -> None:
    clients, context = asked(Clients([[0, 1, 1, 0, 2], [2, 2, 1]]))
    for reply in clients.replies:
        reply.sizes[::2] = 40
    new = with_new_head(MODEL, clients, context)["head.weight"]
    joined = [
        torch.cat([getattr(reply, name) for reply in clients.replies]) for name in ("prototypes", "labels", "sizes")
    ]
    weight, _ = linear_discriminant(*joined, 3)
    torch.testing.assert_close(new / new.norm(), weight / weight.norm())


def test_prototypes_are_asked_for_in_the_models_own_features() -> None:
    clients, context = asked(Clients([[0, 1], [2]]))
    with_new_head(MODEL, clients, context)
    assert len(clients.summarised) == 1
    assert clients.summarised[0] is MODEL
