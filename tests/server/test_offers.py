"""Which model Mosaic's clients end with: the share of the way that they like best, and what is sent back."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mosaic.algorithms import Mosaic
from mosaic.algorithms import mosaic as module
from mosaic.messages import StateDict
from mosaic.nets import Blueprint
from mosaic.server.cohort import Judgement
from mosaic.server.state import ServerState


class Liking:
    """One client that gets the more images right, the closer a model is to what it likes."""

    def __init__(self, liked: float) -> None:
        self.liked = liked

    def evaluate(self, model: StateDict) -> Judgement:
        right = 100 - round(100 * abs(float(model["head.bias"][0]) - self.liked))
        return Judgement(torch.tensor([[right]]), torch.tensor([[100]]), torch.zeros(1, 1), (0,))


def context(blueprint: Blueprint) -> Any:
    recorder = SimpleNamespace(scalar=lambda *_: None)
    return SimpleNamespace(
        blueprint=blueprint, plan=SimpleNamespace(round=1), recorder=recorder, observe=lambda *_: None
    )  # fmt: skip


def with_bias(blueprint: Blueprint, value: float) -> StateDict:
    return {**blueprint.initial(0), "head.bias": torch.full((3,), value)}


@pytest.mark.parametrize(("liked", "taken"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_clients_choose_between_average_half_way_and_student(liked: float, taken: float, blueprint: Blueprint) -> None:
    algorithm = Mosaic(new_head=False)
    assert algorithm.distillation.shares == (1.0, 0.5)
    before, student = ServerState(with_bias(blueprint, 0.0)), with_bias(blueprint, 1.0)
    after = algorithm._offer(student, before, cast(Any, Liking(liked)), context(blueprint))
    assert float(after.model["head.bias"][0]) == taken
    assert after.distilled == (taken > 0)


def test_models_of_ones_own_learn_from_the_global_one(blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch) -> None:
    images, heard = torch.rand(4, 1, 8, 8), []

    def distil(own: nn.Module, teacher: Any, *_: Any) -> StateDict:
        heard.append(teacher(SimpleNamespace(images=images)))
        return {name: tensor + 1 for name, tensor in own.state_dict().items()}

    monkeypatch.setattr(module, "distil", distil)
    pool = SimpleNamespace(keeps_own=lambda client: client == 1, of=lambda _: blueprint)
    reply = SimpleNamespace(client=1, model=blueprint.initial(7))
    uploads = SimpleNamespace(replies=[SimpleNamespace(client=0, model={}), reply])
    state, asked = ServerState(blueprint.initial(0)), context(blueprint)
    asked.pool = pool
    after = Mosaic()._teach_back(state, cast(Any, uploads), cast(Any, None), asked)
    world = blueprint.build(state.model).eval()
    torch.testing.assert_close(heard[0], world(images))
    assert after.returned.keys() == {"1"}
    expected: Tensor = reply.model["head.bias"] + 1
    torch.testing.assert_close(after.returned["1"]["head.bias"], expected)


def test_a_model_that_diverges_while_it_is_taught_is_not_sent_back(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client would decline it in every round, and be sent it again."""
    nothing = torch.full((3,), torch.nan)
    monkeypatch.setattr(module, "distil", lambda own, *_: {**own.state_dict(), "head.bias": nothing})
    reply, asked = SimpleNamespace(client=1, model=blueprint.initial(7)), context(blueprint)
    asked.pool = SimpleNamespace(keeps_own=lambda _: True, of=lambda _: blueprint)
    asked.recorder = None  # or every client would have a curve of its own
    uploads, state = SimpleNamespace(replies=[reply]), ServerState(blueprint.initial(0))
    assert Mosaic()._teach_back(state, cast(Any, uploads), cast(Any, None), asked).returned == {}
    assert "the weights of the model taught for client 1 are not finite, so it is refused" in caplog.text
