import stat
from pathlib import Path

import pytest
import torch

from mosaic.messages import ReleaseReply
from mosaic.privacy import Privacy
from mosaic.privacy.accounting import Mechanism, calibrate, spent
from mosaic.privacy.ledger import ForgottenError, Ledger, OverspentError, booked

pytest.importorskip("dp_accounting", exc_type=ImportError)
BUDGET = Privacy(3.0)
EVERYTHING = list(calibrate(BUDGET).values())


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
    assert spent(found, BUDGET.delta) <= BUDGET.epsilon


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
