"""What a server with a budget does with sums that clients have released."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from mosaic.generation import ClassGaussians
from mosaic.messages import ReleaseReply
from mosaic.nets import Blueprint
from mosaic.privacy import Privacy
from mosaic.privacy.accounting import PrivacyBudget
from mosaic.server import private_student
from mosaic.server.private_student import collect_releases, train_student
from mosaic.server.released import pooled
from mosaic.server.state import ServerState
from mosaic.tasks.distillation import DistillationSettings

pytest.importorskip("dp_accounting", exc_type=ImportError)
BUDGET, GENERATION = PrivacyBudget.of(Privacy(5.0)), ClassGaussians(coefficients=2)
DIM = 4


class Sites:
    """Answers with sums that differ from client to client."""

    def releases(
        self, clients: list[int], features: int, noise: dict[str, float], known: list[int]
    ) -> list[ReleaseReply]:
        assert not {*clients} & {*known}
        assert features == DIM
        assert noise == {name: mechanism.noise for name, mechanism in BUDGET.mechanisms.items()}
        return [self.reply(client) for client in clients]

    @staticmethod
    def reply(client: int) -> ReleaseReply:
        random = torch.Generator().manual_seed(client)
        shapes = ((3,), (3, DIM), (3, DIM * (DIM + 1) // 2))
        return ReleaseReply(client, *(torch.rand(shape, generator=random) for shape in shapes))


def context(blueprint: Blueprint, *clients: int) -> Any:
    from contextlib import nullcontext

    return SimpleNamespace(
        blueprint=blueprint,
        plan=SimpleNamespace(clients=clients, round=1),
        timed=lambda _: nullcontext(),
    )


def collected(blueprint: Blueprint) -> ServerState:
    state = ServerState(blueprint.initial(0))
    for clients in ((0, 1), (1, 2, 3)):
        state, fresh = collect_releases(state, BUDGET, GENERATION, cast(Any, Sites()), context(blueprint, *clients))
        assert fresh
    return state


def test_sums_of_later_clients_are_added_and_nobody_is_asked_twice(blueprint: Blueprint) -> None:
    tensors = collected(blueprint).tensors
    assert tensors["release.clients"].tolist() == [0, 1, 2, 3]
    expected = pooled([Sites.reply(client) for client in range(4)])
    for name, part in expected._asdict().items():
        torch.testing.assert_close(tensors[f"release.{name}"], part)


def test_noise_of_all_clients_is_taken_out(blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []

    def nothing(total: Any, deviations: dict[str, float], *_: Any) -> None:
        seen.append(deviations)

    monkeypatch.setattr(private_student, "fit_released", nothing)
    state = collected(blueprint)
    assert train_student(state, BUDGET, GENERATION, DistillationSettings(), context(blueprint)) is state
    assert seen == [{name: pytest.approx(2 * each.noise) for name, each in BUDGET.mechanisms.items()}]


@pytest.mark.parametrize("fails", [False, True])
def test_labels_take_the_teachers_place_and_a_student_that_is_no_number_is_dropped(
    fails: bool, blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[DistillationSettings] = []

    def distil(start: Any, teacher: Any, images: Any, settings: DistillationSettings, _: Any) -> Any:
        given.append(settings)
        return {name: each * (torch.nan if fails else 1.0) for name, each in start.state_dict().items()}

    generator = SimpleNamespace(state_dict=dict)
    monkeypatch.setattr(private_student, "fit_released", lambda *_: (generator, torch.tensor([1, 2, 3])))
    monkeypatch.setattr(private_student, "GeneratorMixture", lambda *_: SimpleNamespace(draw_from=lambda *_: SHOWN))
    monkeypatch.setattr(private_student, "distil", distil)
    state, recorder = collected(blueprint), SimpleNamespace(images=lambda *_: None, scalar=lambda *_: None)
    asked = context(blueprint)
    asked.phases = SimpleNamespace(device="cpu", dry_run=SimpleNamespace(batch=lambda size: size))
    asked.recorder, asked.observe = recorder, lambda *_: None
    asked.generator_for, asked.seed_for = (lambda _: torch.Generator()), lambda _: 0
    settings = DistillationSettings(origin_weight=0.5, min_confidence=0.3)
    after = train_student(state, BUDGET, GENERATION, settings, asked)
    assert given == [replace(settings, origin_weight=1.0, min_confidence=0.0)]
    assert (after is state) == fails
    assert after.distilled == (not fails)


SHOWN = SimpleNamespace(images=torch.zeros(1, 1, 8, 8), labels=torch.zeros(1))
