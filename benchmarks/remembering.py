"""An executor that remembers on disk what clients have computed, for ablations whose rows share their clients' work.

Local training and generators depend on data, network, seed, program and request alone, bit for bit. Two rows that
differ only on the server therefore ask for the same replies; here the second one reads them. Seconds of such a run mean
nothing and are not reported.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mosaic
from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.federation.executors import SerialExecutor
from mosaic.messages import ClientState, GeneratorReply, GeneratorRequest, Reply, Request, TrainReply, TrainRequest

_PLACES = (
    *("client", "nets", "data", "losses/local.py", "losses/adversarial.py", "phases.py", "batches.py", "seeding.py"),
    *("tasks/base.py", "tasks/classification.py", "tasks/generation.py", "augmentation.py", "priors.py"),
    *("tasks/manual.py", "tasks/blocks.py", "tasks/optimizers.py", "model_pool.py"),
)
"""Code that replies depend on; a change in it forgets everything."""
_SERVERS = ("gates.py", "teacher.py", "prototype_classifier.py")
"""Networks of the server's among them."""


class RememberingExecutor(SerialExecutor):
    """Serial, with a memory of training and generator replies on disk.

    Args:
        folder: where replies are kept.
        threads: CPU threads of the process.
    """

    def __init__(self, folder: str, threads: int | None = None) -> None:
        super().__init__(threads)
        self._folder = Path(folder)

    def start(self, worker: Worker) -> None:
        """Take the worker and find out what its replies depend on."""
        super().start(worker)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._scope = _scope(worker, self.threads)
        self._program = worker._program

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer from memory where the same has been asked before."""
        for request in requests:
            yield self._recall(request)

    def _recall(self, request: Request) -> Reply:
        match request:
            case TrainRequest():
                kind, settings = TrainReply, _describe(self._program.objective)
            case GeneratorRequest():
                kind, settings = GeneratorReply, _describe(self._program.generation, self._program.prior_epsilon)
            case _:
                return next(super().map([request]))
        state = self.states.get(request.client, ClientState({}))
        key = hashlib.blake2b(digest_size=16)
        for part in (self._scope, settings.encode(), encode(request), encode(state)):
            key.update(part)
        place = self._folder / key.hexdigest()
        if place.is_dir():
            self.states.pop(request.client, None)
            kept = decode((place / "state").read_bytes(), ClientState)
            if kept.tensors:
                self.states[request.client] = kept
            return decode((place / "reply").read_bytes(), kind)
        reply = next(super().map([request]))
        if isinstance(reply, kind):
            _write(place, reply, self.states.get(request.client, ClientState({})))
        return reply


def _write(place: Path, reply: Reply, state: ClientState) -> None:
    aside = place.with_name(f".{place.name}")
    aside.mkdir(exist_ok=True)
    (aside / "reply").write_bytes(encode(reply))
    (aside / "state").write_bytes(encode(state))
    aside.rename(place)


def _scope(worker: Worker, threads: int | None) -> bytes:
    """Digest everything but program and request: code, data, split, network, optimiser, seed, Trainer."""
    data, pool = worker._data, worker._pool
    blueprint = pool.blueprint
    root = Path(mosaic.__file__).parent
    files = [file for place in _PLACES for file in sorted((root / place).rglob("*.py")) or [root / place]]
    key = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.name in _SERVERS:
            continue
        key.update(file.read_bytes())
    for tensor in (data.images.train.pixels, data.images.train.labels, *map(torch.as_tensor, sum(data.splits, ()))):
        key.update(tensor.contiguous().numpy().tobytes())
    probe = worker._optimizer([torch.nn.Parameter(torch.zeros(1))])
    facts = (
        pool.own,
        pool.ratios,
        type(pool.slicing).__name__,
        blueprint._blank,
        blueprint.mean,
        blueprint.std,
        probe,
        worker._seed,
        worker._phases._template,
        threads,
    )
    key.update(_describe(data.batch_size, data.augmentation, *map(str, facts), torch.__version__).encode())
    return key.digest()


def _describe(*values: Any) -> str:
    """Return class names and settings, not addresses."""
    return repr(
        [value if isinstance(value, str | float | int) else (type(value).__name__, _vars(value)) for value in values]
    )


def _vars(value: Any) -> Any:
    return {key: item for key, item in sorted(vars(value).items()) if not isinstance(item, Tensor)}
