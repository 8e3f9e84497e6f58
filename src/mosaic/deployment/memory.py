"""What a client remembers of a run, on its own disk: its state after every round, and its replies."""

import hashlib
import json
import shutil
from pathlib import Path

from mosaic.codec import decode, encode
from mosaic.disk import write_whole
from mosaic.executors.base import Envelope
from mosaic.executors.remote.wire import Asked
from mosaic.messages import ClientState, Failed, Reply, Request

_LAST = "last.json"


class Memory:
    """The states and replies of one client in one run.

    ``folder/RUN/ROUND/`` holds ``KEY.safetensors`` for each request of a round: the reply, and the state after it.
    ``last.json`` names the last one. A request that is asked twice is answered once. A server that goes back to an
    earlier round finds the client as it was then. ``owner`` says whose memory it is.

    Args:
        folder: of all runs.
        run: name of the run.
        keep: rounds that are kept; the server can go back by so many.
    """

    def __init__(self, folder: Path, run: str, keep: int) -> None:
        self._folder, self._keep = folder / run, keep

    def claim(self, owner: str) -> bool:
        """Note whose memory of the run this is, if it is nobody's yet; return whether it is this owner's."""
        noted = self._folder / "owner"
        if not noted.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(noted, owner.encode())
        return noted.read_text() == owner

    def go_back(self, asked: Asked[Request]) -> None:
        """Forget the states of rounds that the server has given up, if another process of it asks than before.

        Replies stay: where the same is asked again, nothing has to be computed again.
        """
        session = self._folder / "session"
        if session.exists() and session.read_text() == asked.session:
            return
        for place in self._places():
            if int(place.name) > asked.after:
                (place / _LAST).unlink()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(session, asked.session.encode())

    def recall(self, request: Request) -> Reply | None:
        """Return the reply to a request that was answered before, and stand where the client stood after it."""
        place, key = self._place(request), key_of(request)
        if not (place / key).exists():
            return None
        write_whole(place / _LAST, json.dumps(key).encode())
        reply: Reply = self._read(place, key).message
        return reply

    def state(self, request: Request) -> ClientState:
        """Return the client's state before a request."""
        for place in reversed(self._places()):
            if place.name <= self._place(request).name:
                return self._read(place, json.loads((place / _LAST).read_bytes())).state
        return ClientState({})

    def remember(self, request: Request, answer: Envelope[Reply]) -> None:
        """Keep a reply and the state after it; what has failed is not kept, so that it can be asked again."""
        if isinstance(answer.message, Failed):
            return
        place, key = self._place(request), key_of(request)
        place.mkdir(parents=True, exist_ok=True)
        write_whole(place / key, encode(answer))
        write_whole(place / _LAST, json.dumps(key).encode())
        up_to_now = sorted(path for path in self._folder.iterdir() if path.is_dir() and path.name <= place.name)
        for old in up_to_now[: -self._keep]:  # later ones, which a server has given up, may be asked for again
            shutil.rmtree(old)

    def _place(self, request: Request) -> Path:
        return self._folder / f"{request.round:09d}"

    def _places(self) -> list[Path]:
        """Return the folders of all rounds with a state, in order."""
        return sorted(last.parent for last in self._folder.glob(f"*/{_LAST}"))

    @staticmethod
    def _read(place: Path, key: str) -> Envelope[Reply]:
        return decode((place / key).read_bytes(), Envelope)


def key_of(request: Request) -> str:
    """Return the file name by which a request is known again."""
    return f"{hashlib.sha256(encode(request)).hexdigest()[:24]}.safetensors"
