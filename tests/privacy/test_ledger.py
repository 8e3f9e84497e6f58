import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosaic.messages import ReleaseReply
from mosaic.privacy import Privacy, Shares
from mosaic.privacy.accounting import Budget, Mechanism, spent
from mosaic.privacy.ledger import ForgottenError, Ledger, OverspentError, booked

pytest.importorskip("dp_accounting", exc_type=ImportError)
BUDGET = Budget.of(Privacy(3.0, shares=Shares(0.05, 0.25, 0.4, 0.3), local_training="dp_sgd"), 10)
EVERYTHING = list(BUDGET.mechanisms.values())
TRAINING = EVERYTHING[-1]


def answer(number: float = 1.0) -> ReleaseReply:
    return ReleaseReply(0, torch.tensor([number]), torch.zeros(1, 1), torch.zeros(1, 1))


def test_a_whole_budget_can_be_spent_once_and_nothing_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 0, BUDGET)
    with ledger.open():
        ledger.book("release", EVERYTHING)
        with pytest.raises(OverspentError):
            ledger.book("another", [Mechanism("tiny", 1000.0)])
    (found,) = booked(tmp_path)
    assert found == EVERYTHING, "what was refused is not booked"
    assert spent(found, BUDGET.privacy.delta) <= BUDGET.privacy.epsilon


def test_no_mechanism_goes_beyond_its_plan_while_epsilon_is_far(tmp_path: Path) -> None:
    """Steps in the place of a release would make what is composed depend on what was seen."""
    ledger = Ledger(tmp_path, 0, BUDGET)
    with ledger.open():
        ledger.book("one", [replace(TRAINING, steps=6)])
        with pytest.raises(OverspentError):
            ledger.book("two", [replace(TRAINING, steps=5)])
        ledger.book("two", [replace(TRAINING, steps=4)])
        with pytest.raises(OverspentError):
            ledger.book("three", [Mechanism("unheard of", 1000.0)])
    assert spent(booked(tmp_path)[0], BUDGET.privacy.delta) < 0.8 * BUDGET.privacy.epsilon


def test_another_plan_does_not_buy_more_than_epsilon(tmp_path: Path) -> None:
    with (before := Ledger(tmp_path, 0, BUDGET)).open():
        before.book("release", EVERYTHING)
    later = Budget(BUDGET.privacy, {"counts": Mechanism("counts", 50.0, steps=2)})
    with (after := Ledger(tmp_path, 0, later)).open(), pytest.raises(OverspentError):
        after.book("more", [Mechanism("counts", 50.0)])


def test_a_client_that_died_after_booking_computes_with_the_same_noise_and_pays_once(tmp_path: Path) -> None:
    with (before := Ledger(tmp_path, 0, BUDGET)).open():
        secret = before.book("release", EVERYTHING)
    with (after := Ledger(tmp_path, 0, BUDGET)).open():
        assert after.recall("release") is None
        assert after.book("release", EVERYTHING) == secret
    assert booked(tmp_path) == [EVERYTHING]


def test_an_answer_is_kept_and_its_secret_is_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 0, BUDGET, keep=1)
    with ledger.open():
        secret = ledger.book("release", EVERYTHING[:1])
        ledger.keep("release", answer())
        assert secret.hex() not in (tmp_path / "client_0000" / "book.json").read_text()
        assert ledger.recall("release").counts == 1
        ledger.book("train", EVERYTHING[1:2])
        ledger.keep("train", answer(2.0))
        assert ledger.recall("release") is None
        with pytest.raises(ForgottenError):  # other noise on the same images would tell both apart
            ledger.book("release", EVERYTHING[:1])
        assert len(booked(tmp_path)[0]) == 2


def test_secrets_differ_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    secrets = set()
    for client in range(3):
        with (ledger := Ledger(tmp_path, client, BUDGET)).open():
            secrets.add(ledger.book("release", EVERYTHING))
    assert len(secrets) == 3
    assert stat.S_IMODE((tmp_path / "client_0000").stat().st_mode) == 0o700
    assert booked(tmp_path / "nowhere") == []
