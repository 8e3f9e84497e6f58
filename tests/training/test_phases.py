import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.errors import MosaicError
from mosaic.training.phases import OWNED_BY_PHASES, PhaseRunner
from mosaic.training.task import Task
from tests.cases import for_each

CPU: dict[str, Any] = {"accelerator": "cpu", "devices": 1}


class Line(Task):
    """Fits one number to the mean of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.guess = nn.Parameter(torch.zeros(()))
        self.noise: list[float] = []
        self.seen: list[float] = []

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        self.noise.append(float(torch.rand(())))
        self.seen.extend(batch[0].tolist())
        loss = (self.guess - batch[0].mean()) ** 2
        self.record("loss", loss)
        return loss

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.1)


class Warns(Line):
    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        warnings.warn("the user should hear this", UserWarning, stacklevel=2)
        return super().training_step(batch, batch_idx)


class Fails(Line):
    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        raise ZeroDivisionError


class Remembers(Callback):
    """Keeps every instance and how many fits each has seen."""

    born: list["Remembers"] = []  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name, self.fits = name, 0
        Remembers.born.append(self)

    def on_fit_start(self, *_: object) -> None:
        self.fits += 1


def numbers(steps: int = 5) -> ShuffledBatches:
    return ShuffledBatches(torch.arange(10.0), batch_size=2, steps=steps, seed=0)


def test_every_batch_is_trained_on_once(phases: PhaseRunner) -> None:
    task = Line()
    phases.run(task, numbers(), seed=0)
    assert sorted(task.seen) == list(range(10))


def test_curves_have_one_value_for_each_step(phases: PhaseRunner) -> None:
    curves = phases.run(Line(), numbers(), seed=0)
    assert curves.keys() == {"loss"}
    assert (curves["loss"].shape, curves["loss"].dtype, curves["loss"].device.type) == ((5,), torch.float32, "cpu")
    assert not curves["loss"].requires_grad


def test_a_second_phase_trains_again(phases: PhaseRunner) -> None:
    task = Line()
    phases.run(task, numbers(), seed=0)
    after_one = task.guess.item()
    phases.run(task, numbers(), seed=0)
    assert 0 < after_one < task.guess.item()
    assert len(task.seen) == 20


def test_the_seed_decides_all_randomness_inside(phases: PhaseRunner) -> None:
    first, again, other = Line(), Line(), Line()
    for task, seed in ((first, 1), (again, 1), (other, 2)):
        torch.rand(3)
        phases.run(task, numbers(), seed)
    assert first.noise == again.noise != other.noise


def test_a_task_in_eval_mode_is_trained_in_train_mode_and_let_go(phases: PhaseRunner) -> None:
    task = Line().eval()
    phases.run(task, numbers(), seed=0)
    assert task.training
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        task.trainer  # noqa: B018


def test_a_phase_is_silent_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    PhaseRunner(CPU).run(Line(), numbers(), seed=0)
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("lightning")] == []
    assert list(tmp_path.iterdir()) == []


def test_warnings_are_heard(phases: PhaseRunner) -> None:
    with pytest.warns(UserWarning, match="the user should hear this"):
        phases.run(Warns(), numbers(1), seed=0)


def test_the_log_level_is_given_back_even_by_a_phase_that_raises(
    phases: PhaseRunner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="lightning.pytorch")
    phases.run(Line(), numbers(1), seed=0)
    with pytest.raises(ZeroDivisionError):
        phases.run(Fails(), numbers(1), seed=0)
    assert logging.getLogger("lightning.pytorch").level == logging.INFO


@for_each("key", OWNED_BY_PHASES)
def test_what_a_phase_owns_is_refused_by_name(key: str) -> None:
    with pytest.raises(MosaicError, match=rf"trainer\.{key} belongs to the phases"):
        PhaseRunner({**CPU, key: 7})


def test_what_asks_for_nothing_is_accepted() -> None:
    PhaseRunner({**CPU, **OWNED_BY_PHASES}).run(Line(), numbers(1), seed=0)
    told_false = {key: value is True for key, value in OWNED_BY_PHASES.items()}
    PhaseRunner({**CPU, **told_false}).run(Line(), numbers(1), seed=0)


@for_each(
    ("key", "value"),
    [
        ("limit_train_batches", 1.0),
        ("limit_val_batches", 1.0),
        ("val_check_interval", 1.0),
        ("log_every_n_steps", 50),
        ("num_sanity_val_steps", 0),
        ("max_epochs", 1),
    ],
)
def test_what_phases_do_anyway_is_accepted(key: str, value: object) -> None:
    PhaseRunner({**CPU, key: value})


def test_one_batch_is_not_all_of_them() -> None:
    with pytest.raises(MosaicError, match=r"trainer\.limit_train_batches belongs to the phases"):
        PhaseRunner({**CPU, "limit_train_batches": 1})


def test_gradients_cannot_be_clipped_to_less_than_nothing() -> None:
    with pytest.raises(MosaicError, match=r"trainer\.gradient_clip_val: expected 0 or more, got -1"):
        PhaseRunner({**CPU, "gradient_clip_val": -1})


def with_plugin(name: str, **arguments: str) -> PhaseRunner:
    return PhaseRunner({**CPU, "plugins": {"class_path": f"lightning.pytorch.plugins.{name}", "init_args": arguments}})


def test_a_plugin_that_gives_models_another_type_is_refused_too() -> None:
    for name, arguments in (("DoublePrecision", {}), ("HalfPrecision", {"precision": "bf16-true"})):
        with pytest.raises(MosaicError, match=r"trainer\.precision: .*-true would give models another type"):
            _ = with_plugin(name, **arguments).processes


@pytest.mark.parametrize(("precision", "scales"), [("16-mixed", True), ("bf16-mixed", False)])
def test_a_plugin_may_scale_losses_too(precision: str, scales: bool) -> None:
    assert with_plugin("MixedPrecision", precision=precision, device="cpu").scales_losses == scales
    assert PhaseRunner({**CPU, "precision": precision}).scales_losses == scales


def test_the_users_trainer_settings_are_used() -> None:
    clipped = Line()
    PhaseRunner({**CPU, "gradient_clip_val": 0.5}).run(clipped, numbers(1), seed=0)
    assert clipped.guess.item() == pytest.approx(0.1 * 0.5)


@pytest.mark.parametrize("strategy", ["ddp_notebook", "ddp_spawn"])
def test_processes_that_end_with_a_phase_are_refused(strategy: str) -> None:
    """In notebooks Lightning takes such a strategy by itself for more than one device."""
    runner = PhaseRunner({"accelerator": "cpu", "devices": 2, "strategy": strategy})
    with pytest.raises(MosaicError, match=r"trainer\.devices, .*: 2 devices .* --executor\.workers 2"):
        assert runner.device


def test_callbacks_are_made_anew_for_every_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remembers, "born", [])
    spec = {"class_path": f"{__name__}.Remembers", "init_args": {"name": "mine"}}
    runner = PhaseRunner({**CPU, "callbacks": [spec]})
    for _ in range(2):
        runner.run(Line(), numbers(1), seed=0)
    unused, *used = Remembers.born  # the first Trainer only says what Lightning makes of the settings
    assert unused.fits == 0
    assert [(callback.name, callback.fits) for callback in used] == [("mine", 1), ("mine", 1)]


def test_a_dry_run_trains_and_records() -> None:
    curves = PhaseRunner({**CPU, "fast_dev_run": True}).run(Line(), numbers(3), seed=0)
    assert curves["loss"].shape == (3,)


def test_a_single_plugin_needs_no_list() -> None:
    environment = {"class_path": "lightning.fabric.plugins.environments.LightningEnvironment"}
    assert PhaseRunner({**CPU, "plugins": environment}).processes == 1


def test_a_machine_with_slurm_is_not_told_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would say so for every phase; docs/cluster.md says when to use it."""
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    assert PhaseRunner(CPU).run(Line(), numbers(3), seed=0)["loss"].shape == (3,)
    assert any("srun" in message for message in warned_by_lightning_alone())


def warned_by_lightning_alone() -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    return [str(warning.message) for warning in caught]


def test_alone_on_a_cpu(phases: PhaseRunner) -> None:
    assert phases.device == torch.device("cpu")
    assert phases.rank == 0


class Convolves(Task):
    """Two networks, one of them with convolutions, that note how their weights lay while they were trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.guide = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)
        self.last: list[bool] = []

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        self.last.append(self.net.weight.is_contiguous(memory_format=torch.channels_last))
        return self.guide(self.net(batch[0][:, None, None, None].expand(-1, 3, 5, 5)).mean((2, 3))).mean()

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.1)


def test_channels_lie_last_during_a_phase_and_no_longer() -> None:
    task, plain = Convolves(), Convolves()
    plain.load_state_dict(task.state_dict())
    PhaseRunner(CPU, channels_last=True).run(task, numbers(2), seed=0)
    PhaseRunner(CPU).run(plain, numbers(2), seed=0)
    assert (task.last, plain.last) == ([True] * 2, [False] * 2)
    assert task.net.weight.is_contiguous()
    torch.testing.assert_close(task.net.weight, plain.net.weight)


def test_every_network_of_a_phase_is_compiled_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that changes nothing: what a compiler makes of a network is PyTorch's affair."""
    compiled: list[type] = []

    def compile_without_change(module: nn.Module) -> None:
        compiled.append(type(module))
        original(module, backend="eager")

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", compile_without_change)
    task, plain = Convolves(), Convolves()
    plain.load_state_dict(task.state_dict())
    PhaseRunner(CPU, compile=True).run(task, numbers(2), seed=0)
    PhaseRunner(CPU).run(plain, numbers(2), seed=0)
    assert compiled == [nn.Conv2d, nn.Linear]
    torch.testing.assert_close(task.net.weight, plain.net.weight)
    assert set(task.state_dict()) == set(plain.state_dict())
