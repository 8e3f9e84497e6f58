import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosaic.errors import MosaicError
from mosaic.messages import ReleaseReply
from mosaic.privacy import Privacy, Shares
from mosaic.privacy.accounting import Budget, Mechanism, spent
from mosaic.privacy.ledger import ForgottenError, Ledger, OverspentError, book_folder, booked, require_books

pytest.importorskip("dp_accounting", exc_type=ImportError)
BUDGET = Budget.of(Privacy(3.0, shares=Shares(0.05, 0.25, 0.4, 0.3), local_training="dp_sgd"), 10)
EVERYTHING = list(BUDGET.mechanisms.values())
TRAINING = EVERYTHING[-1]


def answer(number: float = 1.0) -> ReleaseReply:
    return ReleaseReply(0, torch.tensor([number]), torch.zeros(1, 1), torch.zeros(1, 1))


def test_a_whole_budget_can_be_spent_once_and_nothing_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "client_0000", BUDGET)
    with ledger.open():
        ledger.book("release", EVERYTHING)
        with pytest.raises(OverspentError):
            ledger.book("another", [Mechanism("tiny", 1000.0)])
    (found,) = booked(tmp_path)
    assert found == EVERYTHING, "what was refused is not booked"
    assert spent(found, BUDGET.privacy.delta) <= BUDGET.privacy.epsilon


def test_no_mechanism_goes_beyond_its_plan_while_epsilon_is_far(tmp_path: Path) -> None:
    """Steps in the place of a release would make what is composed depend on what was seen."""
    ledger = Ledger(tmp_path / "client_0000", BUDGET)
    with ledger.open():
        ledger.book("one", [replace(TRAINING, steps=6)])
        with pytest.raises(OverspentError):
            ledger.book("two", [replace(TRAINING, steps=5)])
        ledger.book("two", [replace(TRAINING, steps=4)])
        with pytest.raises(OverspentError):
            ledger.book("three", [Mechanism("unheard of", 1000.0)])
    assert spent(booked(tmp_path)[0], BUDGET.privacy.delta) < 0.8 * BUDGET.privacy.epsilon


def test_another_plan_does_not_buy_more_than_epsilon(tmp_path: Path) -> None:
    with (before := Ledger(tmp_path / "client_0000", BUDGET)).open():
        before.book("release", EVERYTHING)
    later = Budget(BUDGET.privacy, {"counts": Mechanism("counts", 50.0, steps=2)})
    with (after := Ledger(tmp_path / "client_0000", later)).open(), pytest.raises(OverspentError):
        after.book("more", [Mechanism("counts", 50.0)])


def test_a_client_that_died_after_booking_computes_with_the_same_noise_and_pays_once(tmp_path: Path) -> None:
    with (before := Ledger(tmp_path / "client_0000", BUDGET)).open():
        secret = before.book("release", EVERYTHING)
    with (after := Ledger(tmp_path / "client_0000", BUDGET)).open():
        assert after.recall("release") is None
        assert after.book("release", EVERYTHING) == secret
    assert booked(tmp_path) == [EVERYTHING]


def test_answers_are_kept_and_their_secrets_are_not(tmp_path: Path) -> None:
    """A release is kept for good: whatever run asks for it again, it costs nothing."""
    ledger = Ledger(tmp_path / "client_0000", BUDGET, keep=1)
    with ledger.open():
        for key, number in (("release", 1.0), ("training-1", 2.0), ("training-2", 3.0)):
            secret = ledger.book(key, [replace(TRAINING, steps=1)])
            ledger.keep(key, answer(number))
            assert secret.hex() not in (tmp_path / "client_0000" / "book.json").read_text()
        assert ledger.recall("release").counts == 1
        assert ledger.recall("training-2").counts == 3
        assert ledger.recall("training-1") is None
        with pytest.raises(ForgottenError):  # other noise on the same images would tell both apart
            ledger.book("training-1", [replace(TRAINING, steps=1)])
        assert len(booked(tmp_path)[0]) == 3


def test_a_booking_is_on_the_disk_before_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("mosaic.privacy.ledger.sync", synced.append)
    ledger = Ledger(tmp_path / "client_0000", BUDGET)
    with ledger.open():
        ledger.book("release", EVERYTHING)
    assert synced == [tmp_path / "client_0000"]


def test_images_of_one_site_have_one_book_under_whichever_number(tmp_path: Path) -> None:
    def book(client: int) -> Path:
        return book_folder(tmp_path, client, alone=True)

    assert book(3) == tmp_path / "client_0003"
    with (ledger := Ledger(book(3), BUDGET)).open():
        ledger.book("release", EVERYTHING)
    assert book(0) == tmp_path / "client_0003"
    assert book_folder(tmp_path, 0, alone=False) == tmp_path / "client_0000", "each simulated client has its own"
    with (other := Ledger(tmp_path / "client_0001", BUDGET)).open():
        other.book("release", EVERYTHING)
    with pytest.raises(MosaicError, match=r"expected one book .* got 2"):
        book(0)


def test_secrets_differ_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    secrets = set()
    for client in range(3):
        with (ledger := Ledger(tmp_path / f"client_{client:04d}", BUDGET)).open():
            secrets.add(ledger.book("release", EVERYTHING))
    assert len(secrets) == 3
    assert stat.S_IMODE((tmp_path / "client_0000").stat().st_mode) == 0o700
    assert booked(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", ["[]", "[{", "{}x", '[{"key": 1}]', None])
def test_books_that_tell_nothing_end_a_run_that_would_go_on(content: str | None, tmp_path: Path) -> None:
    with (ledger := Ledger(tmp_path / "client_0000", BUDGET)).open():
        ledger.book("asked", [BUDGET.mechanisms["training"]])
    require_books(tmp_path, 2)
    book = next(tmp_path.glob("client_0000/book*"))
    book.unlink() if content is None else book.write_text(content)
    with pytest.raises(MosaicError, match="nobody knows what has been spent"):
        require_books(tmp_path, 2)
