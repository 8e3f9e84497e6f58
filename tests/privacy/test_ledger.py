import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mosaic.errors import MosaicError
from mosaic.messages import ReleaseReply
from mosaic.privacy import Privacy, Shares
from mosaic.privacy.accounting import Mechanism, PrivacyBudget, spent
from mosaic.privacy.ledger import (
    ForgottenError,
    Ledger,
    OverspentError,
    answers_gone,
    booked,
    count_bookings,
    ledger_folder,
    require_ledgers,
)

pytest.importorskip("dp_accounting", exc_type=ImportError)
BUDGET = PrivacyBudget.of(Privacy(3.0, shares=Shares(0.05, 0.25, 0.4, 0.3), local_training="dp_sgd"), 10)
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
    later = PrivacyBudget(BUDGET.privacy, {"counts": Mechanism("counts", 50.0, steps=2)})
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
    assert answers_gone(tmp_path) == 1


def test_a_booking_is_on_the_disk_before_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("mosaic.privacy.ledger.sync", synced.append)
    folder = tmp_path / "privacy" / "client_0000"
    with (ledger := Ledger(folder, BUDGET)).open():
        ledger.book("release", EVERYTHING)
    assert synced == [folder.parent, tmp_path, folder], "and so are the names of new folders"
    with ledger.open():
        pass
    assert len(synced) == 3


def test_images_of_one_site_have_one_book_under_whichever_number(tmp_path: Path) -> None:
    def book(client: int) -> Path:
        return ledger_folder(tmp_path, client, alone=True)

    assert book(3) == tmp_path / "client_0003"
    with (ledger := Ledger(book(3), BUDGET)).open():
        ledger.book("release", EVERYTHING)
    assert book(0) == tmp_path / "client_0003"
    assert ledger_folder(tmp_path, 0, alone=False) == tmp_path / "client_0000", "each simulated client has its own"
    with (other := Ledger(tmp_path / "client_0001", BUDGET)).open():
        other.book("release", EVERYTHING)
    with pytest.raises(MosaicError, match=r"expected one ledger .* got 2"):
        book(0)


def test_a_ledger_is_about_the_images_of_its_first_booking(tmp_path: Path) -> None:
    with (ledger := Ledger(tmp_path / "client_0000", BUDGET)).open():
        ledger.claim("form", "some")
        ledger.claim("form", "others")  # since nothing has been spent on the first
        ledger.book("release", EVERYTHING)
        ledger.claim("form", "others")
        with pytest.raises(MosaicError, match=r"expected the images that the privacy ledger .* is about, got others"):
            ledger.claim("form", "some")


def test_secrets_differ_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    secrets = set()
    for client in range(3):
        with (ledger := Ledger(tmp_path / f"client_{client:04d}", BUDGET)).open():
            secrets.add(ledger.book("release", EVERYTHING))
    assert len(secrets) == 3
    assert stat.S_IMODE((tmp_path / "client_0000").stat().st_mode) == 0o700
    assert booked(tmp_path / "nowhere") == []


DAMAGED = [
    *("", "3", "null", "{}", "[]", "[{", "{}x", '[{"key": 1}]'),
    '[{"key": "a", "mechanisms": [{"name": "training", "noise": 1.0, "steps": -1}], "secret": ""}]',
    '[{"key": "a", "mechanisms": [{"name": "training", "noise": "big"}], "secret": ""}]',
    '[{"key": "a", "mechanisms": [{"name": "training", "noise": NaN}], "secret": ""}]',
    '[{"key": "a", "mechanisms": [{"name": "training", "noise": 1.0, "rate": 0}], "secret": ""}]',
    '[{"key": "a", "mechanisms": [], "secret": "x"}]',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_book_is_no_empty_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "book.json").write_text(content)
    with pytest.raises(MosaicError, match="nobody knows what has been spent"):
        Ledger(tmp_path, BUDGET).bookings()


def test_a_book_that_is_gone_while_its_answers_are_there_is_missed(tmp_path: Path) -> None:
    with (ledger := Ledger(tmp_path, BUDGET)).open():
        ledger.book("asked", [TRAINING])
        ledger.keep("asked", answer())
    (tmp_path / "book.json").unlink()
    with pytest.raises(MosaicError, match="answers that it has paid for lie beside it"):
        ledger.bookings()


def test_a_lost_book_is_missed_under_another_number_too(tmp_path: Path) -> None:
    with (ledger := Ledger(ledger_folder(tmp_path, 3, alone=True), BUDGET)).open():
        ledger.book("asked", [TRAINING])
        ledger.keep("asked", answer())
    (tmp_path / "client_0003" / "book.json").unlink()
    assert ledger_folder(tmp_path, 0, alone=True) == tmp_path / "client_0003"


def test_an_answer_that_was_changed_is_not_given_again(tmp_path: Path) -> None:
    with (ledger := Ledger(tmp_path, BUDGET)).open():
        ledger.book("asked", [TRAINING])
        ledger.keep("asked", answer())
    (kept,) = tmp_path.glob("*.answer")
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(MosaicError, match="its checksum differs"):
        ledger.recall("asked")


def test_noise_that_was_paid_for_is_not_exchanged_for_less(tmp_path: Path) -> None:
    """A client that was killed between booking and answering may be started with another budget."""

    with (ledger := Ledger(tmp_path, BUDGET)).open():
        secret = ledger.book("asked", [TRAINING])
        assert ledger.book("asked", [TRAINING]) == secret
        with pytest.raises(OverspentError):
            ledger.book("asked", [replace(TRAINING, noise=TRAINING.noise / 2)])


def test_clocks_do_not_decide_which_answers_are_old(tmp_path: Path) -> None:
    with (ledger := Ledger(tmp_path, BUDGET, keep=2)).open():
        step = replace(TRAINING, steps=1)
        for number in range(3):
            ledger.book(f"training-{number}", [step])
            ledger.keep(f"training-{number}", answer())
            os.utime(tmp_path / f"training-{number}.answer", (10**9 - number, 10**9 - number))
    assert sorted(path.stem for path in tmp_path.glob("*.answer")) == ["training-1", "training-2"]


@pytest.mark.parametrize("content", ["[", None])
def test_books_that_say_less_than_before_end_a_run_that_would_go_on(content: str | None, tmp_path: Path) -> None:
    step = replace(TRAINING, steps=1)
    for client in range(2):
        with (ledger := Ledger(tmp_path / f"client_{client:04d}", BUDGET)).open():
            for asked in ("first", "second"):
                ledger.book(asked, [step])
    counts = count_bookings(tmp_path)
    assert counts == {"client_0000": 2, "client_0001": 2}
    require_ledgers(tmp_path, counts)
    book = tmp_path / "client_0001" / "book.json"
    book.unlink() if content is None else book.write_text(content)
    with pytest.raises(MosaicError, match="nobody knows what has been spent"):
        require_ledgers(tmp_path, counts)


def test_a_book_of_which_pages_are_gone_is_missed(tmp_path: Path) -> None:
    with (ledger := Ledger(tmp_path / "client_0000", BUDGET)).open():
        ledger.book("first", [replace(TRAINING, steps=1)])
    with pytest.raises(MosaicError, match="expected 2 bookings or more, as the last snapshot has seen, got 1"):
        require_ledgers(tmp_path, {"client_0000": 2})
