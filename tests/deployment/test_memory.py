"""A client's memory: what is asked twice, and servers that go back."""

from pathlib import Path

import pytest
import torch

from mosaic.deployment.memory import Memory, require_own
from mosaic.errors import MosaicError
from mosaic.executors.base import Envelope
from mosaic.executors.remote.wire import Asked
from mosaic.messages import ClientState, Declined, EvaluateRequest, Failed, GeneratorRequest, Request

RUN, FIRST, SECOND = 32 * "a", 32 * "1", 32 * "2"


def request(round: int, which: int = 0) -> Request:
    return EvaluateRequest(0, round, {"w": torch.tensor([float(which)])})


def state(value: float) -> ClientState:
    return ClientState({"kept": torch.tensor([value])})


class Client:
    """Asks a memory as a resident does; the state after a request counts the requests that were computed."""

    def __init__(self, folder: Path, keep: int = 10) -> None:
        self.memory, self.computed = Memory(folder, RUN, keep), 0

    def ask(self, asked: Request, session: str = FIRST, after: int = 0, fails: bool = False) -> float | None:
        """Return the state on which the request was computed; nothing where the reply was known."""
        assert self.memory.claim("me", after)
        self.memory.go_back(Asked(RUN, session, after, "", (), (), asked))
        if self.memory.recall(asked) is not None:
            return None
        before = self.memory.state(asked).tensors.get("kept", torch.tensor([0.0]))
        self.computed += 1
        reply = Failed(0, "x") if fails else Declined(0, str(self.computed))
        self.memory.remember(asked, Envelope(reply, state(self.computed)))
        return float(before)


def test_states_follow_each_other_within_and_between_rounds(tmp_path: Path) -> None:
    client = Client(tmp_path)
    assert [client.ask(each) for each in (request(1), request(1, 1), request(2))] == [0, 1, 2]
    assert Client(tmp_path).ask(GeneratorRequest(0, 3)) == 3  # another process of the client


def test_a_request_that_comes_twice_is_not_computed_again_and_moves_nothing(tmp_path: Path) -> None:
    client = Client(tmp_path)
    for each in (request(1), request(1, 1)):
        client.ask(each)
        assert client.ask(each) is None
    assert client.ask(request(1)) is None, "late, when others have been asked"
    assert client.ask(request(2)) == 2


def test_what_has_failed_is_computed_again_on_the_state_before(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.ask(request(1))
    assert client.ask(request(2), fails=True) == 1
    assert client.ask(request(2)) == 1


def test_a_server_that_goes_back_finds_the_client_as_it_was(tmp_path: Path) -> None:
    client = Client(tmp_path)
    for round in (1, 2, 3):
        client.ask(request(round))
    assert client.ask(request(2, 7), SECOND, after=1) == 1
    assert client.ask(request(3, 7), SECOND, after=1) == 4


def test_rounds_that_the_server_has_given_up_count_for_nothing_even_if_it_asks_later(tmp_path: Path) -> None:
    client = Client(tmp_path)
    for round in (1, 2, 3):
        client.ask(request(round))
    assert client.ask(request(4), SECOND, after=1) == 1  # it took no part in rounds 2 and 3 of this session


def test_a_server_that_goes_back_is_given_the_replies_that_it_has_lost(tmp_path: Path) -> None:
    client = Client(tmp_path)
    for round in (1, 2):
        client.ask(request(round))
    assert client.ask(request(2), SECOND, after=1) is None
    assert client.ask(request(3), SECOND, after=1) == 2


def test_a_reply_of_another_history_is_not_given_again(tmp_path: Path) -> None:
    """What a client of an own architecture is asked holds no model: all that differs is what it was asked before."""
    client = Client(tmp_path)
    for round in (1, 2, 3):
        client.ask(request(round))
    assert client.ask(request(2, 7), SECOND, after=1) == 1
    assert client.ask(request(3), SECOND, after=1) == 4


def test_a_state_that_is_not_kept_any_more_is_missed(tmp_path: Path) -> None:
    client = Client(tmp_path, keep=1)
    for round in (1, 2, 3):
        client.ask(request(round))
    with pytest.raises(MosaicError, match="no state from before round 2 any more: it keeps 1 rounds"):
        client.ask(request(2, 7), SECOND, after=1)


def test_a_first_state_of_a_round_that_is_given_up_is_not_missed(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.ask(request(2))
    assert client.ask(request(3), SECOND, after=1) == 0, "it took no part in the new round 2"


def test_a_client_that_has_no_state_misses_none(tmp_path: Path) -> None:
    memory = Memory(tmp_path, RUN, keep=1)
    memory.claim("me", 0)
    for round in (1, 2, 3):
        memory.remember(request(round), Envelope(Declined(0, "x"), ClientState({})))
    memory.go_back(Asked(RUN, SECOND, 1, "", (), (), request(2, 7)))
    assert memory.state(request(2, 7)).tensors == {}


def test_a_folder_is_that_of_one_client(tmp_path: Path) -> None:
    """A client may be known by another number, or get more images; both at once is another client."""
    for client, images in ((0, "a"), (1, "a"), (1, "b"), (1, "b")):
        require_own(tmp_path, client, images)
    with pytest.raises(MosaicError, match="is where client 1 remembers its runs, with other images: name the folder"):
        require_own(tmp_path, 0, "c")


def test_a_memory_is_its_owners_and_what_is_lost_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Memory(tmp_path, RUN, 10).claim("me", 0)
    assert caplog.text == ""
    assert not Memory(tmp_path, RUN, 10).claim("you", 3)
    assert Memory(tmp_path / "new", RUN, 10).claim("you", 3)
    assert "with 3 finished rounds" in caplog.text


@pytest.mark.parametrize("which", ["*.answer", "last.json"])
def test_damage_is_told(which: str, tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.ask(request(1))
    (file,) = tmp_path.glob(f"{RUN}/*/{which}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for ask in (request(1), request(2)):
        with pytest.raises(MosaicError, match=r"is damaged .*: restore it from a copy"):
            Client(tmp_path).ask(ask)


def test_what_else_lies_there_is_left_alone(tmp_path: Path) -> None:
    client = Client(tmp_path, keep=1)
    (stray := tmp_path / RUN / "lost+found").mkdir(parents=True)
    (stray / "last.json").write_text("{")
    assert [client.ask(request(round)) for round in (1, 2)] == [0, 1]
    assert stray.is_dir()


def test_old_rounds_are_forgotten(tmp_path: Path) -> None:
    client = Client(tmp_path, keep=2)
    for round in range(1, 6):
        client.ask(request(round))
    assert sorted(path.name for path in (tmp_path / RUN).iterdir() if path.is_dir()) == ["000000004", "000000005"]


def test_after_a_server_has_gone_back_far_what_is_new_outlives_what_it_has_given_up(tmp_path: Path) -> None:
    client = Client(tmp_path, keep=3)
    for round in range(1, 9):
        client.ask(request(round))
    assert client.ask(request(7, 7), SECOND, after=6) == 6
    assert client.ask(request(7, 8), SECOND, after=6) == 9, "the state after the request before"
    assert client.ask(request(8, 7), SECOND, after=6) == 10


def test_runs_do_not_know_each_other(tmp_path: Path) -> None:
    Client(tmp_path).ask(request(1))
    other = Memory(tmp_path, 32 * "b", 10)
    assert other.recall(request(1)) is None
    assert other.state(request(2)).tensors == {}
