"""Threads of executors with several workers."""

from threading import Thread
from types import SimpleNamespace
from typing import Any

from mosaic.codec import encode
from mosaic.executors.base import Envelope
from mosaic.executors.parallel import ParallelExecutor
from mosaic.messages import ClientState, Declined, PrototypeRequest

LIMIT = 60


class Declining(ParallelExecutor):
    """Has workers that decline everything."""

    def _send(self, worker: int, request: bytes, client: int) -> bytes:
        return encode(Envelope(Declined(client, "tired"), ClientState({})))


def test_threads_end_although_nobody_reads_the_replies_to_their_end() -> None:
    executor = Declining(workers=3, threads=None)
    worker: Any = SimpleNamespace(images=[1] * 20)
    executor.start(worker)
    replies = executor.map(PrototypeRequest(client, 1, {}) for client in range(20))
    assert next(replies) == Declined(0, "tired")
    joining = Thread(target=executor._join_senders, daemon=True)
    joining.start()
    joining.join(LIMIT)
    assert not joining.is_alive()
    assert [thread.is_alive() for thread in executor._senders] == [False] * 3
