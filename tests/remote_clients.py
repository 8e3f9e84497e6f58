"""A federation whose clients are elsewhere, without a network: residents in this process behind a grid."""

import io
import socket
from collections.abc import Callable, Collection
from contextlib import redirect_stderr
from functools import cache
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import yaml

from mosaic.cli.client import make_client
from mosaic.cli.main import main
from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.deployment.resident import Resident
from mosaic.executors.remote.executor import RemoteExecutor
from mosaic.executors.remote.grid import Delivery
from mosaic.relay.frames import receive_frame, send_frame
from tests.small_runs import DIGITS, fit_arguments

CLIENTS = 4
MEAN, STD = 0.3, 0.38
Handle = Callable[[bytes], bytes | None]


class HandedOver:
    """Hands messages over within this process; a node that returns nothing keeps its answer to itself."""

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: dict[str, tuple[int, bytes]] = {}

    def nodes(self) -> dict[int, str]:
        return {node: HandedOverExecutor.keys.get(node, "") for node in HandedOverExecutor.handles}

    def push(self, node: int, data: bytes, seconds: float) -> str:
        number = str(next(self._numbers))
        self._waiting[number] = node, data
        return number

    def pull(self, numbers: Collection[str], most: int) -> list[Delivery]:
        found = []
        for number in [number for number in self._waiting if number in numbers]:
            node, data = self._waiting.pop(number)
            try:
                reply = HandedOverExecutor.handles[node](data)
            except (ValueError, KeyError) as error:
                found.append(Delivery(number, None, f"{type(error).__name__} at the node"))
                continue
            if reply is not None:
                told = f"expected at most {most} bytes, got {len(reply)}"
                found.append(Delivery(number, None, told) if len(reply) > most else Delivery(number, reply))
        return found

    def close(self) -> None:
        pass


class HandedOverExecutor(RemoteExecutor):
    """Asks the residents of the test that runs."""

    handles: ClassVar[dict[int, Handle]] = {}
    keys: ClassVar[dict[int, str]] = {}

    def open_grid(self) -> HandedOver:
        return HandedOver()


EXECUTOR = ["--executor=tests.remote_clients.HandedOverExecutor", "--executor.patience=0.1", "--executor.grace=0"]


class OverSockets:
    """Carries messages to resident processes on this host, whose sockets lie in one folder as ``CLIENT.sock``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, count()
        self._found: dict[str, Delivery] = {}

    def nodes(self) -> dict[int, str]:
        return {int(path.stem): "" for path in self._folder.glob("*.sock")}

    def push(self, node: int, data: bytes, seconds: float) -> str:
        number = str(next(self._numbers))
        Thread(target=self._ask, args=(number, node, data), daemon=True).start()
        return number

    def _ask(self, number: str, node: int, data: bytes) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self._folder / f"{node}.sock"))
                send_frame(connection, data)
                self._found[number] = Delivery(number, receive_frame(connection, 1 << 30))
        except OSError as error:
            self._found[number] = Delivery(number, None, str(error))

    def pull(self, numbers: Collection[str], most: int) -> list[Delivery]:
        return [self._found.pop(number) for number in list(self._found) if number in numbers]

    def close(self) -> None:
        pass


class OverSocketsExecutor(RemoteExecutor):
    """Asks resident processes on this host."""

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.folder = folder

    def open_grid(self) -> OverSockets:
        return OverSockets(Path(self.folder))


def write_parts(folder: Path, clients: int = CLIENTS) -> Path:
    """Deal digits out to a file for each client, and return the configuration that all parties have."""
    data = FederatedDataModule(SklearnDigits(), DirichletPartition(clients, 1.0), validation_share=0.0)
    train, test = data.images.train, data.images.test
    for client, (own, _) in enumerate(data.splits):
        np.savez(
            folder / f"{client}.npz",
            train_images=train.pixels[own].numpy().transpose(0, 2, 3, 1),
            train_labels=train.labels[own].numpy(),
        )
    np.savez(
        folder / "test.npz", test_images=test.pixels.numpy().transpose(0, 2, 3, 1), test_labels=test.labels.numpy()
    )
    config = yaml.safe_load(DIGITS.read_text())
    known = {"num_clients": clients, "class_names": list("0123456789"), "image_shape": [1, 8, 8]}
    config["data"] = {
        **{"partition": {"class_path": "mosaic.data.Remote", "init_args": known}},
        **{"batch_size": 32, "mean": [MEAN], "std": [STD]},
    }
    del config["executor"]
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def arguments(config: Path, algorithm: str, *more: str) -> list[str]:
    """What both ends are given beside the configuration: a tiny run of this algorithm."""
    tiny = fit_arguments(Path("unused"), algorithm, *more)
    left_out = ("fit", "--config", str(DIGITS), "--federation.run_dir", "--data.partition")
    kept = [argument for argument in tiny if not argument.startswith(left_out)]
    return ["--config", str(config), *kept]


def resident_arguments(config: Path, client: int, algorithm: str, *more: str) -> list[str]:
    """What a client is given that remembers in a folder beside its images."""
    own = config.parent
    return [
        *arguments(config, algorithm, *more),
        f"--client={client}",
        f"--folder={own / str(client)}",
        *("--data.source=NpzSource", f"--data.source.path={own / f'{client}.npz'}"),
    ]


def resident(config: Path, client: int, algorithm: str, *more: str) -> Resident:
    """Make a client."""
    return make_client(resident_arguments(config, client, algorithm, *more)).resident


@cache
def residents(config: Path, algorithm: str, *more: str) -> tuple[Resident, ...]:
    """Make all clients; they may serve several runs, which have names of their own."""
    with redirect_stderr(io.StringIO()):
        return tuple(resident(config, client, algorithm, *more) for client in range(CLIENTS))


def start_residents(config: Path, algorithm: str, *more: str) -> None:
    """Let the executor's nodes be residents of all clients."""
    made = residents(config, algorithm, *more)
    HandedOverExecutor.handles = {100 + each.client: each.handle for each in made}
    HandedOverExecutor.keys = {}


def deployed(run: Path, config: Path, algorithm: str, *more: str) -> Path:
    main(["fit", *EXECUTOR, *arguments(config, algorithm, *more), f"--federation.run_dir={run}"])
    return run


def simulated(run: Path, algorithm: str, *more: str) -> Path:
    """Run the same with all images in one place."""
    given = [*fit_arguments(run, algorithm, *more), f"--data.mean=[{MEAN}]", f"--data.std=[{STD}]"]
    curves = ["--algorithm.share_curves=false"] if algorithm == "Mosaic" else []  # as in a deployment
    main([*given, "--executor=SerialExecutor", *curves])
    return run
