"""Clients on hosts of their own: the bits of simulated ones, a server without images, and clients that are absent."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Timer
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml

from mosaic.cli.client import make_client
from mosaic.cli.main import main
from mosaic.client.private_worker import REFUSED, SPENT
from mosaic.codec import decode, encode
from mosaic.data.pixels import pixel_statistics
from mosaic.data.sources import NpzSource
from mosaic.deployment.resident import Resident
from mosaic.errors import MosaicError
from mosaic.executors.remote.executor import ClientsAbsentError
from mosaic.executors.remote.introductions import read_roster
from mosaic.executors.remote.wire import Asked, Introduce, Introduction, Terms
from mosaic.messages import (
    Declined,
    EvaluateRequest,
    Failed,
    GeneratorRequest,
    ReleaseReply,
    ReleaseRequest,
    TrainReply,
    TrainRequest,
)
from tests.cli.test_main import refusal
from tests.remote_clients import (
    CLIENTS,
    EXECUTOR,
    MEAN,
    STD,
    HandedOverExecutor,
    OverSocketsExecutor,
    arguments,
    deployed,
    resident,
    resident_arguments,
    residents,
    simulated,
    start_residents,
    write_parts,
)
from tests.small_runs import FOUR_ROUNDS, TWO_ROUNDS, assert_same_run, failed, rows_without_time

Handle = Callable[[bytes], bytes | None]
ALL = "--federation.faults.quorum=1"
ANY = "--federation.faults.quorum=0"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parties"))


def name_of(run: Path) -> str:
    """By which its clients remember it."""
    (books,) = {json.loads(file.read_text())["run"] for file in run.glob("rounds/*/run.json")}
    return str(books)


def with_node(client: int, handle: Handle) -> None:
    """Let something else answer for a client."""
    HandedOverExecutor.handles = {**HandedOverExecutor.handles, 100 + client: handle}


def without_node(client: int) -> None:
    HandedOverExecutor.handles = {k: v for k, v in HandedOverExecutor.handles.items() if k != 100 + client}


def instead(client: int, kind: type, answer: Handle) -> None:
    """Change what a client answers to one kind of request."""
    honest = HandedOverExecutor.handles[100 + client]
    with_node(client, lambda data: answer(data) if isinstance(decode(data, Asked).message, kind) else honest(data))


class TestBits:
    @pytest.mark.parametrize(
        ("algorithm", "rounds"),
        [
            ("Mosaic", TWO_ROUNDS),
            pytest.param("Mosaic", FOUR_ROUNDS, marks=pytest.mark.slow),
            pytest.param("FedAvg", FOUR_ROUNDS, marks=pytest.mark.slow),
        ],
        ids=["mosaic", "mosaic-twice", "fedavg"],
    )
    def test_deployed_is_simulated(self, algorithm: str, rounds: list[str], config: Path, tmp_path: Path) -> None:
        """With a test set at the server, every row agrees too."""
        start_residents(config, algorithm, *rounds)
        test = ("--data.source=NpzSource", f"--data.source.path={config.parent / 'test.npz'}")
        one = deployed(tmp_path / "deployed", config, algorithm, *rounds, *test)
        other = simulated(tmp_path / "simulated", algorithm, *rounds)
        assert_same_run(one, other)

    def test_a_run_that_lost_its_quorum_goes_on_to_the_same_bits(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """FedBN's personal layers are with the clients alone, who go back to the snapshot with the server."""
        start_residents(config, "FedBN", *FOUR_ROUNDS)
        straight = deployed(tmp_path / "straight", config, "FedBN", *FOUR_ROUNDS)
        lost = HandedOverExecutor.handles[102]
        trains = iter(range(9))

        def ends_in_round_3(data: bytes) -> bytes | None:
            if isinstance(decode(data, Asked).message, TrainRequest) and next(trains) == 2:
                without_node(2)
                raise ValueError
            return lost(data)

        with_node(2, ends_in_round_3)
        with pytest.raises(SystemExit) as stop:
            deployed(tmp_path / "run", config, "FedBN", *FOUR_ROUNDS, ALL)
        assert stop.value.code == 69
        assert "client 2" in capsys.readouterr().err.splitlines()[-1]
        with redirect_stderr(io.StringIO()):
            with_node(2, resident(config, 2, "FedBN", *FOUR_ROUNDS).handle)
        deployed(tmp_path / "run", config, "FedBN", *FOUR_ROUNDS, "--ckpt_path=auto")
        last = [(run / "rounds" / "0004" / "server.safetensors").read_bytes() for run in (straight, tmp_path / "run")]
        assert last[0] == last[1]

    def test_what_is_asked_twice_is_computed_once(self, config: Path, tmp_path: Path) -> None:
        """Each side may lose the other's bytes."""
        start_residents(config, "FedAvg")
        honest, seen = HandedOverExecutor.handles[101], []

        def forgets_the_first(data: bytes) -> bytes | None:
            reply = honest(data)
            if isinstance(decode(data, Asked).message, TrainRequest):
                seen.append(reply)
                return reply if len(seen) > 1 else b"lost"
            return reply

        with_node(1, forgets_the_first)
        run = deployed(tmp_path / "run", config, "FedAvg", "--federation.faults.retries=1")
        assert seen[0] == seen[1]
        assert failed(run) == []
        assert (
            len(list((config.parent / "1" / name_of(run)).glob("*/*.answer"))) == 2
        )  # training, and the judgement of the last model


class TestTheServerSeesNoData:
    def test_a_run_without_a_test_set_is_told_by_the_clients_validation(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start_residents(config, "Mosaic", *TWO_ROUNDS)
        run = deployed(tmp_path / "run", config, "Mosaic", *TWO_ROUNDS)
        printed = capsys.readouterr().out
        rows = rows_without_time(run)
        assert "accuracy on the clients' validation images, since there is no test split" in printed.replace("\n", " ")
        assert f"{100 * (rows[-1]['validation_accuracy'] or 0):.2f} %" in printed
        assert all(row["test_accuracy"] is None for row in rows)
        main(["report", str(run)])
        page = (run / "report.html").read_text()
        assert "test accuracy of the global model" not in page
        said = json.loads((run / "partition.json").read_text())["class_counts"]
        holds = [each._data.class_counts[each.client].tolist() for each in residents(config, "Mosaic", *TWO_ROUNDS)]
        assert said == holds

    @pytest.mark.parametrize("known", [True, False])
    def test_several_devices_are_refused_before_anybody_is_asked(
        self,
        known: bool,
        config: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each device's process would be a server, or a client, of its own."""
        flags = ("--trainer.devices=2", *(() if known else ("--data.mean=null", "--data.std=null")))
        opened = Mock()
        monkeypatch.setattr(HandedOverExecutor, "open_grid", opened)
        asked = ["fit", *EXECUTOR, *arguments(config, "FedAvg", *flags), f"--federation.run_dir={tmp_path / 'run'}"]
        assert "trainer.devices: expected 1" in refusal(capsys, *asked)
        assert not opened.called
        with pytest.raises(MosaicError, match=r"trainer\.devices: expected 1 .* got 2"):
            resident(config, 0, "FedAvg", *flags)

    def test_mean_and_deviation_come_from_sums_where_nobody_knows_them(self, config: Path, tmp_path: Path) -> None:
        unknown = ("--data.mean=null", "--data.std=null")
        start_residents(config, "FedAvg", *unknown)
        run = deployed(tmp_path / "run", config, "FedAvg", *unknown)
        found = yaml.safe_load((run / "config.yaml").read_text())["data"]
        parts = [NpzSource(str(config.parent / f"{client}.npz")).load_split("train")[0] for client in range(CLIENTS)]
        kept = [each._data.splits[each.client].train for each in residents(config, "FedAvg", *unknown)]
        whole = replace(
            parts[0],
            pixels=torch.cat([part.pixels[own] for part, own in zip(parts, kept, strict=True)]),
            labels=torch.cat([part.labels[own] for part, own in zip(parts, kept, strict=True)]),
        )
        mean, std = pixel_statistics(whole)
        assert found["mean"] == pytest.approx(mean, rel=1e-12)
        assert found["std"] == pytest.approx(std, rel=1e-9)
        deployed(tmp_path / "run", config, "FedAvg", *unknown, *TWO_ROUNDS, "--ckpt_path=auto")  # with the same mean

    def test_statistics_do_not_depend_on_who_came_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(HandedOverExecutor, "_meet", lambda _: None)
        sums = torch.rand(20, 3, 1, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        found = []
        for order in (range(20), range(19, -1, -1)):
            executor = HandedOverExecutor()
            executor._known = {client: Introduction(client, "", torch.ones(1), sums[client]) for client in order}
            found.append(executor.pixel_statistics())
        assert found[0] == found[1]

    @pytest.mark.slow
    def test_without_judging_no_counts_of_right_answers_leave(self, config: Path, tmp_path: Path) -> None:
        """Clients that are told so refuse a server that asks all the same."""
        silent = "--federation.judging=false"
        start_residents(config, "Mosaic", silent)
        run = deployed(tmp_path / "run", config, "Mosaic", silent)
        summary = json.loads((run / "summary.json").read_text())
        assert "Evaluate" not in summary["bytes_up"]
        assert summary["distilled"]  # taken unseen
        run = deployed(tmp_path / "asks", config, "Mosaic")
        summary = json.loads((run / "summary.json").read_text())
        assert {told["reason"] for told in summary["declined"]} == {"it judges no models (federation.judging)"}


class TestAbsentClients:
    def test_where_too_few_came_it_is_waited_again(self, tmp_path: Path) -> None:
        """Patience is used up once for those who stay away, but not by a start that has failed."""
        executor = OverSocketsExecutor(str(tmp_path), patience=0.1)
        executor.terms = Terms("", 2, 10, (1, 8, 8))
        for _ in range(2):
            with pytest.raises(ClientsAbsentError, match=r"expected 1 of 2 clients within 0\.1 s, got 0"):
                executor.pixel_statistics()

    def test_a_late_client_is_missing_and_the_round_goes_on(self, config: Path, tmp_path: Path) -> None:
        """Here the others have answered, however long they took, before anybody looks at the clock."""
        start_residents(config, "FedAvg")
        instead(3, TrainRequest, lambda _: None)
        run = deployed(tmp_path / "run", config, "FedAvg", "--federation.faults.deadline=0.1")
        (lost,) = failed(run)
        assert (lost["client"], lost["asked"]) == (3, "Train")
        assert "no answer within 0.1 s" in str(lost["reason"])

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (lambda _: b"not mosaic's", "decode"),
            (lambda _: b"\xff" * 70 * 2**20, "expected at most 67108864 bytes"),
            (lambda data: encode(decode(data, Asked).message), "expected a TrainReply, got a TrainRequest"),
        ],
        ids=["garbage", "huge", "another kind"],
    )
    def test_nonsense_is_refused_by_name(self, answer: Handle, reason: str, config: Path, tmp_path: Path) -> None:
        start_residents(config, "FedAvg")
        instead(0, TrainRequest, answer)
        (lost,) = failed(deployed(tmp_path / "run", config, "FedAvg"))
        assert lost["client"] == 0
        assert reason in str(lost["reason"])

    @pytest.mark.parametrize("declines", [False, True])
    def test_a_client_in_anothers_name_is_refused(self, declines: bool, config: Path, tmp_path: Path) -> None:
        start_residents(config, "FedAvg")
        honest = HandedOverExecutor.handles[102]

        def answer(data: bytes) -> bytes:
            reply = decode(honest(data) or b"", TrainReply)
            return encode(Declined(1, "no") if declines else replace(reply, client=1))

        instead(2, TrainRequest, answer)
        run = deployed(tmp_path / "run", config, "FedAvg")
        (lost,) = failed(run)
        assert lost["client"] == 2
        assert ("expected a TrainReply" if declines else "that of client 1") in str(lost["reason"])
        assert json.loads((run / "summary.json").read_text())["declined"] == []

    def test_a_strangers_words_are_short_and_printable(self, config: Path, tmp_path: Path) -> None:
        start_residents(config, "FedAvg")
        instead(1, TrainRequest, lambda _: encode(Failed(1, "\x1b[31mlong\x00 " + 500 * "x")))
        (lost,) = failed(deployed(tmp_path / "run", config, "FedAvg"))
        assert len(str(lost["reason"])) <= 300
        assert str(lost["reason"]).isprintable()

    @pytest.mark.slow
    def test_a_client_that_joins_late_takes_part_from_then_on(self, config: Path, tmp_path: Path) -> None:
        start_residents(config, "FedAvg", *TWO_ROUNDS)
        late, first = HandedOverExecutor.handles[103], HandedOverExecutor.handles[100]
        without_node(3)

        def lets_3_in(data: bytes) -> bytes | None:
            if isinstance(decode(data, Asked).message, TrainRequest):
                with_node(3, late)
            return first(data)

        with_node(0, lets_3_in)
        run = deployed(tmp_path / "run", config, "FedAvg", *TWO_ROUNDS)
        assert {(lost["client"], lost["reason"]) for lost in failed(run)} <= {(3, "it is not connected")}
        assert list((config.parent / "3" / name_of(run)).glob("000000002/*.answer"))

    @pytest.mark.slow
    def test_a_finished_run_needs_nobody_and_tells_of_all_who_came(self, config: Path, tmp_path: Path) -> None:
        start_residents(config, "FedAvg", *TWO_ROUNDS)
        late, first = HandedOverExecutor.handles[103], HandedOverExecutor.handles[100]
        without_node(3)
        with_node(0, lambda data: (with_node(3, late), first(data))[1])
        run = deployed(tmp_path / "run", config, "FedAvg", *TWO_ROUNDS)
        assert all(sum(counts) for counts in json.loads((run / "partition.json").read_text())["class_counts"])
        summary = (run / "summary.json").read_text()
        HandedOverExecutor.handles = {}
        deployed(run, config, "FedAvg", *TWO_ROUNDS, "--ckpt_path=auto")
        assert json.loads((run / "summary.json").read_text())["test_accuracy"] == json.loads(summary)["test_accuracy"]

    @pytest.mark.slow
    def test_no_run_begins_where_another_was(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start_residents(config, "FedAvg", *TWO_ROUNDS)
        run = deployed(tmp_path / "run", config, "FedAvg", *TWO_ROUNDS)
        with pytest.raises(SystemExit):
            deployed(tmp_path / "branch", config, "FedAvg", *FOUR_ROUNDS, f"--ckpt_path={run}")
        assert "clients on hosts of their own remember one" in capsys.readouterr().err
        assert not (tmp_path / "branch").exists()

    def test_too_few_at_the_start(self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        start_residents(config, "FedAvg")
        without_node(1)
        with pytest.raises(SystemExit) as stop:
            deployed(tmp_path / "run", config, "FedAvg", "--executor.fewest=4")
        assert stop.value.code == 69
        assert "not there: [1]" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


class TestStrangers:
    def test_another_configuration_is_left_out_by_name(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start_residents(config, "FedAvg")
        with_node(1, resident(config, 1, "FedAvg", "--data.batch_size=16").handle)
        run = deployed(tmp_path / "run", config, "FedAvg", ANY)
        assert "client 1 runs another configuration or version of mosaic" in capsys.readouterr().err
        assert {lost["client"] for lost in failed(run)} == {1}

    def test_a_roster_decides_who_is_who(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start_residents(config, "FedAvg")
        HandedOverExecutor.keys = {100 + client: f"ecdsa-sha2-nistp384 AAAA{client} site" for client in range(CLIENTS)}
        HandedOverExecutor.keys[102] = "ecdsa-sha2-nistp384 BBBB thief"
        roster = tmp_path / "roster.yaml"
        roster.write_text("".join(f"{client}: ecdsa-sha2-nistp384 AAAA{client} us\n" for client in range(CLIENTS)))
        run = deployed(tmp_path / "run", config, "FedAvg", f"--executor.roster={roster}")
        assert "it says that it is client 2, and its key is not that client's" in capsys.readouterr().err
        assert {lost["client"] for lost in failed(run)} == {2}

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("0: ssh-x AAA\n1: ssh-x AAA other\n", "two clients have the same key"),
            ("0: ssh-x AAA\n0: ssh-x BBB\n", "key once, got 0"),
            ("true: ssh-x AAA\n", "numbers of clients, got True"),
            ("- ssh-x AAA\n", "a list"),
            ("010: ssh-x AAA\n", "in decimal digits, got 010"),
            ("0: ''\n", "type and body of a key, got '' for client 0"),
            ("0: ssh-x AAA\n1:\n", "got None for client 1"),
            ("0: hello\n", "got 'hello' for client 0"),
            ("0: [1, 2]\n", r"got \[1, 2\] for client 0"),
        ],
    )
    def test_a_roster_names_every_client_and_every_key_once(self, text: str, told: str, tmp_path: Path) -> None:
        (roster := tmp_path / "roster.yaml").write_text(text)
        with pytest.raises(MosaicError, match=f"executor.roster: expected a YAML file with a line.*{told}"):
            read_roster(str(roster))

    def test_two_nodes_for_one_client(self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        start_residents(config, "FedAvg")
        HandedOverExecutor.handles = {**HandedOverExecutor.handles, 7: HandedOverExecutor.handles[100]}
        run = deployed(tmp_path / "run", config, "FedAvg")
        assert "client 0 is there already, as node" in capsys.readouterr().err
        assert failed(run) == []


class TestResident:
    @pytest.fixture
    def own(self, config: Path) -> Handle:
        return residents(config, "FedAvg")[0].handle

    def asked(self, message: object, **other: object) -> bytes:
        known = {"run": 32 * "a", "session": 32 * "b", "after": 0, "agreement": "x", "mean": (0.3,), "std": (0.4,)}
        return encode(Asked(**{**known, **other}, message=message))

    @pytest.mark.parametrize("wants_sums", [False, True])
    def test_says_who_it_is_and_no_sums_where_the_configuration_has_them(self, wants_sums: bool, own: Handle) -> None:
        who = decode(own(self.asked(Introduce(wants_sums))) or b"", object)
        assert (who.client, int(who.class_counts.sum()), who.pixel_sums.numel()) == (0, 371, 0)

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (GeneratorRequest(1, 1), "it was taken for client 1"),
            (GeneratorRequest(0, 1), "another configuration or version"),
        ],
    )
    def test_refuses_what_is_not_for_it(self, message: object, reason: str, own: Handle) -> None:
        assert reason in decode(own(self.asked(message)) or b"", object).reason

    @pytest.mark.parametrize("client", [0, 1])
    def test_a_folder_that_remembers_the_run_of_other_images(self, client: int, tmp_path: Path) -> None:
        """A site that is given another's folder, or whose images change, would go on as a mixture of two clients."""
        parts = write_parts(tmp_path)
        first = resident(parts, 0, "FedAvg")
        known = {"agreement": first._agreement, "mean": (MEAN,), "std": (STD,)}
        first.handle(self.asked(EvaluateRequest(0, 1, {}), **known))
        (tmp_path / "0").rename(tmp_path / str(client))
        (tmp_path / "1.npz").rename(tmp_path / f"{client}.npz")
        second = resident(parts, client, "FedAvg")
        told = decode(second.handle(self.asked(EvaluateRequest(client, 1, {}), **known)), object)
        assert "remembers this run of another client, or of other images" in told.reason

    @pytest.mark.parametrize("run", ["../../etc", "", 31 * "a", 33 * "a"])
    def test_names_of_runs_are_no_paths(self, run: str, own: Handle) -> None:
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            own(self.asked(EvaluateRequest(0, 1, {}), run=run))

    @pytest.mark.parametrize("round", [0, -1, 10**9])
    def test_rounds_are_rounds(self, round: int, own: Handle) -> None:
        with pytest.raises(ValueError, match="round"):
            own(self.asked(GeneratorRequest(0, round)))

    @pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1", encode(GeneratorRequest(0, 1))])
    def test_anything_else_is_no_message(self, data: bytes, own: Handle) -> None:
        with pytest.raises(ValueError, match="expected"):
            own(data)


class TestBadInput:
    def test_simulated_clients_that_hold_their_own_images(
        self, config: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = refusal(capsys, "fit", *arguments(config, "FedAvg"))
        assert "executor: expected one for clients on hosts of their own" in line

    def test_remote_clients_of_a_partition(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from tests.small_runs import fit_arguments

        line = refusal(capsys, *fit_arguments(tmp_path / "run", "FedAvg", *EXECUTOR))
        assert "expected data.partition mosaic.data.Remote with HandedOverExecutor" in line

    def test_algorithms_that_gather_data(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        start_residents(config, "FedAvg")
        line = refusal(capsys, "fit", *arguments(config, "Centralised"), *EXECUTOR)
        assert "Centralised brings all images to one place, and these clients keep theirs" in line

    def test_images_that_nobody_can_deal_out(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = refusal(capsys, "partition", "--config", str(config), f"--output={tmp_path / 'out'}")
        assert "data.source: expected where the images are, got nothing" in line
        source = f"--data.source={{class_path: NpzSource, init_args: {{path: {config.parent / 'both.npz'}}}}}"
        train, test = (dict(np.load(config.parent / f"{name}.npz")) for name in ("0", "test"))
        np.savez(config.parent / "both.npz", **train, **test)
        line = refusal(capsys, "partition", "--config", str(config), source, f"--output={tmp_path / 'out'}")
        assert "these clients hold their images themselves" in line
        assert not (tmp_path / "out").exists()

    def test_comparisons(self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refusal(capsys, "compare", str(config), "--algorithms=fedavg", f"--output={tmp_path / 'out'}")
        assert "mosaic compare: expected clients that are simulated" in line
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("option", "line"),
        [
            ("--client=4", "--client: expected a number in 0..3, got 4"),
            (
                "--data.partition.image_shape=[3,8,8]",
                "expected images of 3x8x8 (data.partition.image_shape), got 1x8x8",
            ),
            (
                "--data.partition.class_names=[cat,dog]",
                "data.partition.class_names: expected only the classes cat, dog, got 0",
            ),
            ("--data.partition.class_names=[cat,cat]", "expected at least two different names"),
            ("--data.std=null", "expected both or none"),
            ("--keep_rounds=0", "client.keep_rounds: expected a number above 0"),
        ],
    )
    def test_a_client_that_cannot_begin(
        self, option: str, line: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = ("--data.source=NpzSource", f"--data.source.path={config.parent / '0.npz'}")
        assert line in refusal(capsys, "client", *arguments(config, "FedAvg"), "--client=0", *source, option)

    def test_a_client_without_images(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refusal(capsys, "client", *arguments(config, "FedAvg"), "--client=0")
        assert "data.source: expected where the images of client 0 are" in line


def test_a_site_of_one_class_has_its_number(tmp_path: Path) -> None:
    """Its file names no classes, and has no test images."""
    config = write_parts(tmp_path)
    np.savez(
        tmp_path / "0.npz",
        train_images=np.zeros((20, 8, 8), dtype=np.uint8),
        train_labels=np.full(20, 7),
    )
    assert resident(config, 0, "FedAvg")._data.class_counts[0].tolist() == [0, 0, 0, 0, 0, 0, 0, 18, 0, 0]


@pytest.mark.parametrize(("labels", "known"), [((1, 2), True), ((1, 2, 3), True), ((0, 1, 2), False)])
def test_names_that_are_numbers_are_never_taken_for_places(
    labels: tuple[int, ...], known: bool, tmp_path: Path
) -> None:
    """Whatever else a site holds, 1 is the class of this name."""
    config = write_parts(tmp_path)
    number = np.array([1] * 20 + list(labels))
    np.savez(tmp_path / "0.npz", train_images=np.zeros((len(number), 8, 8), dtype=np.uint8), train_labels=number)
    agreed = yaml.safe_load(config.read_text())
    agreed["data"]["partition"]["init_args"]["class_names"] = ["1", "2", "3"]
    config.write_text(yaml.safe_dump(agreed))
    if not known:
        with pytest.raises(MosaicError, match="class_names: expected only the classes 1, 2, 3, got 0"):
            resident(config, 0, "FedAvg")
    else:
        assert resident(config, 0, "FedAvg")._data.class_counts[0][0] >= 18


def test_a_client_that_is_away_for_a_moment_is_waited_for(config: Path, tmp_path: Path) -> None:
    start_residents(config, "FedAvg")
    own, left = HandedOverExecutor.handles[102], []

    def answers_and_leaves(data: bytes) -> bytes | None:
        if isinstance(decode(data, Asked).message, TrainRequest):
            left.append(True)
            without_node(2)
            Timer(1.0, lambda: with_node(2, own)).start()
        return own(data)

    with_node(2, answers_and_leaves)
    run = deployed(tmp_path / "run", config, "FedAvg", "--executor.grace=20")
    assert left == [True]
    assert failed(run) == []
    with_node(2, answers_and_leaves)
    assert {lost["client"] for lost in failed(deployed(tmp_path / "hasty", config, "FedAvg"))} == {2}


class TestPrivacy:
    FLAGS = ("--privacy.epsilon=10", "--algorithm.generation=ClassGaussians", "--algorithm.generation.coefficients=4")

    @pytest.fixture(autouse=True)
    def _counted(self) -> None:
        pytest.importorskip("dp_accounting", exc_type=ImportError)

    def test_a_site_with_a_budget_tells_nothing_else_and_has_one_ledger_for_all_runs(self, config: Path) -> None:
        site = resident(config, 0, "Mosaic", *self.FLAGS)
        asked = partial(
            Asked, session=32 * "b", after=0, agreement=site._agreement, mean=(0.3,), std=(0.38,), run=32 * "a"
        )
        who = decode(site.handle(encode(asked(message=Introduce(wants_sums=True)))), Introduction)
        assert (who.class_counts == 1).all()
        assert who.pixel_sums.numel() == 0
        first = site.handle(encode(asked(message=ReleaseRequest(0, 1))))
        assert isinstance(decode(first, object), ReleaseReply)
        assert site.handle(encode(asked(message=ReleaseRequest(0, 3), run=32 * "c"))) == first
        for message in (EvaluateRequest(0, 1, {}), GeneratorRequest(0, 1)):
            assert decode(site.handle(encode(asked(message=message))), object) == Declined(0, REFUSED)
        for other in ({"mean": (0.3,), "std": (1e-200,)}, {"mean": (0.4,), "std": (0.38,)}):
            reply = decode(site.handle(encode(asked(message=ReleaseRequest(0, 1), **other))), object)
            assert reply == Failed(0, "it was told other numbers than its data.mean and data.std")

    def test_another_question_is_not_given_an_old_answer(self, config: Path, tmp_path: Path) -> None:
        """One ledger serves all federations, whose servers may ask alike for other classes, noise or training."""
        train = "{epsilon: 10, local_training: dp_sgd, shares: {counts: 0, means: 0, moments: 0, training: 1}}"
        trains = (f"--privacy={train}", "--model.net.norm=group")
        numbers = {"mean": (MEAN,), "std": (STD,), "after": 0, "session": 32 * "b"}
        runs = iter(range(10**31, 10**32))

        def site(algorithm: str, *flags: str) -> Resident:
            folder = f"--folder={tmp_path / algorithm}"
            return make_client([*resident_arguments(config, 0, algorithm), *flags, folder]).resident

        def ask(who: Resident, message: ReleaseRequest | TrainRequest) -> bytes:
            asked = Asked(run=str(next(runs)), agreement=who._agreement, message=message, **numbers)
            return who.handle(encode(asked))

        first = ask(site("Mosaic", *self.FLAGS), ReleaseRequest(0, 1))
        more = site("Mosaic", *self.FLAGS, "--federation.schedule.collaborative_rounds=9")
        assert ask(more, ReleaseRequest(0, 1)) == first, "noise does not depend on rounds"
        other = site("Mosaic", *self.FLAGS, f"--data.partition.class_names={list('9876543210')}")
        assert decode(ask(other, ReleaseRequest(0, 1)), object) == Declined(0, SPENT)
        trainer = site("FedAvg", *trains)
        model = trainer._worker_for(((MEAN,), (STD,)))._pool.blueprint.initial(seed=0)
        request = TrainRequest(0, 1, model, 1, 0, 0.1, keep=False, upload=True, judge=False, replay={})
        trained = ask(trainer, request)
        assert isinstance(decode(trained, object), TrainReply)
        assert ask(trainer, request) == trained
        for change in ("--data.batch_size=16", "--privacy.epsilon=100"):
            assert ask(site("FedAvg", *trains, change), request) != trained, change

    def test_all_parties_agree_on_the_steps_over_which_noise_is_spread(self, config: Path) -> None:
        """Or the server would state noise that no client has used; released sums have the same in any schedule."""
        train = "{epsilon: 10, local_training: dp_sgd, shares: {counts: 0, means: 0, moments: 0, training: 1}}"
        for algorithm, flags in (
            ("FedAvg", (f"--privacy={train}", "--model.net.norm=group")),
            ("Mosaic", self.FLAGS),
        ):
            more = (*flags, "--federation.schedule.collaborative_rounds=60")
            few, many = (resident(config, 0, algorithm, *each)._agreement for each in (flags, more))
            assert (few == many) == (algorithm == "Mosaic")

    def test_a_ledger_is_not_for_other_images(self, config: Path, tmp_path: Path) -> None:
        given = [*resident_arguments(config, 0, "Mosaic", *self.FLAGS)[:-1], f"--folder={tmp_path}"]
        site = make_client([*given, f"--data.source.path={config.parent / '0.npz'}"]).resident
        asked = Asked(32 * "a", 32 * "b", 0, site._agreement, (MEAN,), (STD,), ReleaseRequest(0, 1))
        assert isinstance(decode(site.handle(encode(asked)), object), ReleaseReply)
        others = [*given, f"--data.source.path={config.parent / '1.npz'}"]
        with pytest.raises(MosaicError, match=r"--folder: expected the images that the privacy ledger .* is about"):
            make_client(others)
        for noted in tmp_path.rglob("*.images"):
            noted.unlink()  # as ledgers were before
        make_client([*given, f"--data.source.path={config.parent / '0.npz'}"])
        with pytest.raises(MosaicError, match=r"data\.source"):
            make_client(others)

    @pytest.mark.slow
    def test_an_audit_compares_what_is_released_with_images_that_are_not(self, config: Path, tmp_path: Path) -> None:
        """Images to validate on are released too, so others are those of a test split."""
        file = config.parent / "0.npz"
        own, other = np.load(file), np.load(config.parent / "test.npz")
        np.savez(tmp_path / "whole.npz", **own, **other)
        for path in (file, tmp_path / "whole.npz"):
            flags = [*resident_arguments(config, 0, "Mosaic", *self.FLAGS)[:-1], f"--data.source.path={path}"]
            asked = [*flags, f"--audit={tmp_path / 'audit.json'}", f"--folder={tmp_path / path.stem}"]
            if path == file:
                with pytest.raises(
                    MosaicError, match=r"--audit: expected a test split of data.source beside a privacy"
                ):
                    make_client(asked)
            else:
                audit = make_client([*asked, "--data.validation_share=0.2"]).audit
                assert audit is not None
                assert len(audit._members) == len(own["train_labels"])
                assert len(audit._others) > 0

    def test_a_server_makes_a_student_of_what_sites_release(
        self, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start_residents(config, "Mosaic", *self.FLAGS)
        run = deployed(tmp_path / "run", config, "Mosaic", *self.FLAGS)
        told = json.loads((run / "summary.json").read_text())
        assert told["bytes_up"].keys() == {"Release"}
        assert told["distilled"]
        assert told["privacy"]["spent"] is None, "only the clients know"
        assert "client 1 is node 101\n" in capsys.readouterr().err, "and how many images they hold"
