"""One client's ledger of what its images have cost: written before they are touched, on the client's own disk.

``book.json`` lists every booking: what was asked, the mechanisms, and until the answer is kept, the
secret from which its noise follows. ``KEY.answer`` is that answer. An answer is kept before it is sent: what is
asked again gets the same bytes and costs nothing. A client that was killed between both computes the answer again with
the same noise, which nobody has seen yet. ``FORM.images`` says which images the ledger is about, as federations with
images of this form see them.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mosaic.codec import decode, encode
from mosaic.disk import read_signed, sync, write_signed, write_whole
from mosaic.errors import MosaicError
from mosaic.messages import Reply
from mosaic.privacy.accounting import TRAINING, Mechanism, PrivacyBudget, spent
from mosaic.privacy.noise import new_secret

_BOOK, _ANSWER, _IMAGES = "book.json", ".answer", ".images"
KEPT = 20
"""Answers of training that are kept at least."""


class OverspentError(Exception):
    """What is asked for would cost more than is left."""


class ForgottenError(Exception):
    """What is asked for was answered long ago, and the answer is not kept any more."""


@dataclass(frozen=True)
class Booking:
    """What one answer costs.

    Attributes:
        key: of what was asked.
        mechanisms: that make the answer.
        secret: from which its noise follows, in hexadecimal digits; empty once the answer is kept.
    """

    key: str
    mechanisms: tuple[Mechanism, ...]
    secret: str


class Ledger:
    """The ledger of one client; only it may read the folder.

    Args:
        folder: of the client's ledger, see :func:`ledger_folder`.
        budget: its budget.
        keep: answers of training that are kept: a server may go back by so many rounds.
    """

    def __init__(self, folder: Path, budget: PrivacyBudget, keep: int = KEPT) -> None:
        self._folder, self._budget, self._keep = folder, budget, keep

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let nobody else book meanwhile."""
        made = [place for place in (self._folder, *self._folder.parents) if not place.exists()]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in made:
            sync(place.parent)  # or the folder, and its bookings with it, may be gone after the host's end
        with FileLock(self._folder / ".lock"):
            yield

    def claim(self, form: str, images: str) -> None:
        """Note which images the ledger is about, and refuse others once anything is booked.

        Args:
            form: a fingerprint of the size and the classes in which a federation sees images.
            images: a fingerprint of the images in this form.

        Raises:
            MosaicError: the ledger is about others, for which its answers would be given.
        """
        noted = self._folder / f"{form}{_IMAGES}"
        known = noted.read_text("utf-8") if noted.exists() else None
        if known not in (None, images) and self.bookings():
            raise MosaicError(
                f"--folder: expected the images that the privacy ledger {self._folder} is about, got others of this "
                "size and these classes: start with those (data.source), or name another folder, whose budget is "
                "another one: that is right only where no image is in both"
            )
        if known != images:
            write_whole(noted, images.encode())

    def bookings(self) -> list[Booking]:
        """Return everything that was booked, in order.

        Raises:
            MosaicError: the ledger is damaged, or gone while answers that it has paid for are there.
        """
        book = self._folder / _BOOK
        try:
            found = _read(book)
        except FileNotFoundError:
            found = []
        if not found and any(self._folder.glob(f"*{_ANSWER}")):
            raise MosaicError(
                f"{book} says nothing, and answers that it has paid for lie beside it: restore it from a copy: without "
                "it nobody knows what has been spent"
            )
        return found

    def recall(self, key: str) -> Reply | None:
        """Return the answer to what was asked before, if it is kept.

        Raises:
            MosaicError: it is damaged.
        """
        file = self._answer(key)
        return decode(read_signed(file), object) if file.is_file() else None  # type: ignore[return-value]

    def book(self, key: str, mechanisms: Sequence[Mechanism]) -> bytes:
        """Write down what an answer will cost, before any image is touched, and return the secret of its noise.

        Nothing beyond the planned steps of a mechanism is booked, even if epsilon is not reached: whatever a server
        asks for, and however it chooses that by earlier answers, is then a part of one composition fixed beforehand.

        Raises:
            OverspentError: it would take the client beyond its plan or its epsilon, or was booked at another noise;
                nothing is written.
            ForgottenError: it was answered before, and computing it again would need other noise.
        """
        before = self.bookings()
        for each in before:
            if each.key == key:
                if not each.secret:
                    raise ForgottenError(key)
                if each.mechanisms != tuple(mechanisms):
                    raise OverspentError(key)
                return bytes.fromhex(each.secret)
        every = [*(mechanism for each in before for mechanism in each.mechanisms), *mechanisms]
        privacy = self._budget.privacy
        if not self._is_planned(every) or spent(every, privacy.delta) > privacy.epsilon:
            raise OverspentError(key)
        secret = new_secret()
        self._write([*before, Booking(key, tuple(mechanisms), secret.hex())])
        return secret

    def keep(self, key: str, answer: Reply) -> None:
        """Keep an answer, then forget the secret of its noise; of older answers of training, only some are kept."""
        every = self.bookings()
        write_signed(self._answer(key), encode(answer))
        self._write([Booking(each.key, each.mechanisms, "" if each.key == key else each.secret) for each in every])
        training = (self._answer(each.key) for each in every if each.key.startswith(f"{TRAINING}-"))
        for old in [answer for answer in training if answer.exists()][: -self._keep]:
            old.unlink()

    def _is_planned(self, booked: Sequence[Mechanism]) -> bool:
        """Whether no mechanism has more steps than the plan."""
        taken = Counter[str]()
        for each in booked:
            taken[each.name] += each.steps
        planned = self._budget.mechanisms
        return all(name in planned and steps <= planned[name].steps for name, steps in taken.items())

    def _write(self, bookings: Sequence[Booking]) -> None:
        found = [asdict(each) for each in bookings]
        write_whole(self._folder / _BOOK, json.dumps(found, indent=1).encode())
        sync(self._folder)  # a booking outlives the host's end, or its images would be paid for by nobody

    def _answer(self, key: str) -> Path:
        return self._folder / f"{key}{_ANSWER}"


def answers_gone(folder: Path) -> int:
    """Return how many answers of training the ledgers of all clients list that are not kept any more.

    Args:
        folder: of the ledgers of all clients.

    Raises:
        MosaicError: a ledger is damaged.
    """
    training = [
        (ledger.parent, each.key)
        for ledger in _ledgers(folder)
        for each in _read(ledger)
        if each.key.startswith(f"{TRAINING}-") and not each.secret
    ]
    return sum(not any(place.glob(f"{key}.*")) for place, key in training)


def ledger_folder(folder: Path, client: int, alone: bool) -> Path:
    """Return where a client's ledger lies.

    Args:
        folder: of the ledgers of all clients whose images are here.
        client: number of the client.
        alone: whether it is the only one. Then its images are the same under whichever number a federation knows it.

    Raises:
        MosaicError: it is said to be the only one, and there are several ledgers.
    """
    held = {file.parent for file in folder.glob("client_*/*") if file.name == _BOOK or file.suffix == _ANSWER}
    ledgers = sorted(held) if alone else []
    if len(ledgers) > 1:
        raise MosaicError(
            f"--folder: expected one ledger of what the client's images have cost, got {len(ledgers)} in {folder}: "
            "keep the one of these images there, and move the others away"
        )
    return ledgers[0] if ledgers else folder / f"client_{client:04d}"


def require_ledgers(folder: Path, counts: Mapping[str, int]) -> None:
    """Refuse to go on with ledgers that list fewer bookings than they did.

    Args:
        folder: of the ledgers of all clients.
        counts: as :func:`count_bookings` has returned them before.

    Raises:
        MosaicError: a ledger is gone, damaged, or has fewer bookings.
    """
    now = count_bookings(folder)
    for name, count in counts.items():
        if (found := now.get(name, 0)) < count:
            raise MosaicError(
                f"{folder / name / _BOOK}: expected {count} bookings or more, as the last snapshot has seen, got "
                f"{found}: restore it from a copy: without it nobody knows what has been spent"
            )


def count_bookings(folder: Path) -> dict[str, int]:
    """Return how many bookings the ledger of each client of a folder has, by the name of the client's own folder."""
    return {ledger.parent.name: len(_read(ledger)) for ledger in _ledgers(folder)}


def booked(folder: Path) -> list[list[Mechanism]]:
    """Return all mechanisms that each client of a folder has booked; nothing where there is no folder."""
    return [[mechanism for booking in _read(ledger) for mechanism in booking.mechanisms] for ledger in _ledgers(folder)]


def _ledgers(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"client_*/{_BOOK}"))


def _read(book: Path) -> list[Booking]:
    try:
        listed = json.loads(book.read_text("utf-8"))
        if not isinstance(listed, list) or not listed:
            raise TypeError(f"expected a list of bookings, got {str(listed)[:20]}")
        return [_booking(**each) for each in listed]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MosaicError(
            f"{book} is damaged ({error}): restore it from a copy: without it nobody knows what has been spent"
        ) from error


def _booking(key: str, mechanisms: list[dict[str, Any]], secret: str) -> Booking:
    """Return one booking; refuse one that costs nothing, or less."""
    found = tuple(Mechanism(**of) for of in mechanisms)
    for each in found:
        if not (0 <= each.noise < math.inf and 0 < each.rate <= 1 and each.steps >= 1 and each.name):
            raise ValueError(f"no mechanism has {each}")
    return Booking(key, found, bytes.fromhex(secret).hex())
