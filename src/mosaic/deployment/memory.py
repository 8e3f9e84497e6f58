"""What a client remembers of a run, on its own disk: its state after every round, and its replies."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

from mosaic.codec import decode, encode
from mosaic.disk import read_signed, sync, write_signed, write_whole
from mosaic.errors import MosaicError
from mosaic.executors.base import Envelope
from mosaic.executors.remote.wire import Asked
from mosaic.messages import ClientState, Failed, Reply, Request
from mosaic.runs.facts import read_facts

log = logging.getLogger(__name__)
_LAST, _SINCE = "last.json", "since"


def require_own(folder: Path, client: int, images: str) -> None:
    """Refuse a folder in which another client remembers its runs, and note whose it is.

    A client may get another number in another federation, or more images; both together make it another client.

    Args:
        folder: of all runs.
        client: number of the client.
        images: a fingerprint of its images.
    """
    noted = folder / "owner.json"
    before, now = read_facts(noted), {"client": client, "images": images}
    if before and client != before.get("client") and images != before.get("images"):
        raise MosaicError(
            f"--folder: {folder} is where client {before.get('client')} remembers its runs, with other images: name "
            f"the folder of client {client}, or a new one"
        )
    if before != now:
        write_whole(noted, json.dumps(now).encode())


class Memory:
    """The states and replies of one client in one run.

    ``folder/RUN/ROUND/`` holds an answer for each request of a round: the reply, and the state after it. The name of
    an answer tells what was asked, and which answer came before, so that it is given again after the same history
    alone; ``last.json`` names the last one. A request that is asked twice is answered once. A server that goes back to
    an earlier round finds the client as it was then. ``owner`` says whose memory it is, ``since`` in which round it
    first had a state to remember.

    Args:
        folder: of all runs.
        run: name of the run.
        keep: rounds that are kept; the server can go back by so many.
    """

    def __init__(self, folder: Path, run: str, keep: int) -> None:
        self._folder, self._keep = folder / run, keep

    def claim(self, owner: str, after: int) -> bool:
        """Note whose memory of the run this is, if it is nobody's yet; return whether it is this owner's.

        Args:
            owner: who asks.
            after: rounds that the server has finished.
        """
        noted = self._folder / "owner"
        if not noted.exists():
            if after:
                log.warning(
                    "this is the first that %s knows of a run with %d finished rounds: if the client took part in "
                    "them, what it kept is lost, and the folder should be restored from a copy",
                    *(self._folder, after),
                )
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(noted, owner.encode())
        return noted.read_text("utf-8") == owner

    def go_back(self, asked: Asked[Request]) -> None:
        """Forget the states of rounds that the server has given up, if another process of it asks than before.

        Replies stay: where the same is asked again, nothing has to be computed again.
        """
        session = self._folder / "session"
        if session.exists() and session.read_text("utf-8") == asked.session:
            return
        for place in self._places():
            if int(place.name) > asked.after:
                (place / _LAST).unlink()
        since = self._folder / _SINCE
        if since.exists() and int(since.read_text("utf-8")) > asked.after:
            since.unlink()  # that round is given up too
        write_whole(session, asked.session.encode())

    def recall(self, request: Request) -> Reply | None:
        """Return the reply to a request that was answered before, after the same answers.

        Raises:
            MosaicError: it is damaged.
        """
        place, asked, current = self._place(request), _asked(request), self._current(request)
        following = place / _name(asked, current)
        if following.exists():
            kept = self._read(following)
            self._stand_after(following, kept.state)
            return kept.message
        while current is not None and current.parent == place:  # others may have been asked meanwhile
            if current.name.startswith(asked):
                return self._read(current).message
            before = current.stem.partition("-")[2]
            current = next((each for each in place.glob(f"*{_SUFFIX}") if _digest(each) == before), None)
        return None

    def state(self, request: Request) -> ClientState:
        """Return the client's state before a request.

        Raises:
            MosaicError: it is damaged, or so old that it is not kept any more.
        """
        if (current := self._current(request)) is not None:
            return self._read(current).state
        since = self._folder / _SINCE
        if since.exists() and int(since.read_text("utf-8")) < request.round:
            raise MosaicError(
                f"{self._folder} holds no state from before round {request.round} any more: it keeps {self._keep} "
                "rounds (--keep_rounds), so the server cannot go back so far"
            )
        return ClientState({})

    def remember(self, request: Request, answer: Envelope[Reply]) -> None:
        """Keep a reply and the state after it; what has failed is not kept, so that it can be asked again."""
        if isinstance(answer.message, Failed):
            return
        place = self._place(request)
        following = place / _name(_asked(request), self._current(request))
        if not place.is_dir():
            place.mkdir(parents=True)
            sync(self._folder)
        write_signed(following, encode(answer))
        self._stand_after(following, answer.state)
        up_to_now = sorted(path for path in self._rounds() if path.name <= place.name)
        for old in up_to_now[: -self._keep]:  # later ones, which a server has given up, may be asked for again
            shutil.rmtree(old)

    def _stand_after(self, answer: Path, state: ClientState) -> None:
        """Make an answer the last one, and note the round in which the client first had a state."""
        write_whole(answer.parent / _LAST, json.dumps(answer.name).encode())
        sync(answer.parent)  # or a host that loses power may stand after an earlier answer
        since = self._folder / _SINCE
        if state.tensors and not since.exists():
            write_whole(since, str(int(answer.parent.name)).encode())
            sync(self._folder)

    def _place(self, request: Request) -> Path:
        return self._folder / f"{request.round:09d}"

    def _rounds(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.is_dir() and path.name.isdecimal()]

    def _places(self) -> list[Path]:
        """Return the folders of all rounds with a state, in order."""
        return sorted(path for path in self._rounds() if (path / _LAST).exists()) if self._folder.is_dir() else []

    def _current(self, request: Request) -> Path | None:
        """Return the answer after which a request is asked, if there is one."""
        places = [place for place in self._places() if place.name <= self._place(request).name]
        if not places:
            return None
        try:
            return places[-1] / str(json.loads((places[-1] / _LAST).read_bytes()))
        except ValueError as error:
            raise MosaicError(f"{places[-1] / _LAST} is damaged ({error}): restore it from a copy") from error

    @staticmethod
    def _read(answer: Path) -> Envelope[Reply]:
        return decode(read_signed(answer), Envelope)


_SUFFIX = ".answer"


def _name(asked: str, before: Path | None) -> str:
    """Return the file name of an answer, by what is asked and the answer before it."""
    return f"{asked}-{'' if before is None else _digest(before)}{_SUFFIX}"


def _asked(request: Request) -> str:
    return hashlib.sha256(encode(request)).hexdigest()[:24]


def _digest(answer: Path) -> str:
    """Return what stands for an answer, and with it for all before, in the name of the next one."""
    return hashlib.sha256(f"{answer.parent.name}/{answer.name}".encode()).hexdigest()[:24]
