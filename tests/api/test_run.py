"""A run that lies on disk, as an object."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mosaic
from mosaic.cli.audit import audit
from mosaic.data import SklearnDigits
from mosaic.nets import SmallCNN
from tests.small_runs import TWO_ROUNDS, SharedRuns, digits, final_model


@pytest.fixture(scope="session")
def folder(shared_run: SharedRuns) -> Path:
    return shared_run("Mosaic", *TWO_ROUNDS)


@pytest.fixture
def run(folder: Path) -> mosaic.Run:
    return mosaic.load(folder)


def test_its_figures_are_those_of_the_folder(run: mosaic.Run) -> None:
    table = run.metrics
    assert table["round"].tolist() == [1, 2]
    assert table["distils"].tolist() == [True, False]
    assert table["test_accuracy"].iloc[-1] == run.summary["test_accuracy"]
    assert table["validation_accuracy"].notna().all()
    assert table["own_test_accuracy"].isna().all()
    assert run.config["seed_everything"] == 0
    assert "Mosaic, 2 rounds, test accuracy" in repr(run)


def test_its_model_classifies_pixels_as_the_run_has_measured_it(run: mosaic.Run) -> None:
    test = SklearnDigits().load().test
    with torch.no_grad():
        logits = run.model(test.pixels.float() / 255)
    assert not run.model.training
    assert float((logits.argmax(-1) == test.labels).float().mean()) == pytest.approx(run.summary["test_accuracy"])
    assert all(torch.equal(run.model.state_dict()[name[4:]], value) for name, value in final_model(run.path).items())


def test_its_model_is_that_of_the_folder_now_and_nobody_elses(run: mosaic.Run, folder: Path, tmp_path: Path) -> None:
    other = run.model.train()
    assert not run.model.training
    mine = mosaic.load(shutil.copytree(folder, tmp_path / "run"))
    before = mine.model.state_dict()
    checkpoint = torch.load(file := mine.path / "global.ckpt", weights_only=True)
    checkpoint["state_dict"] = {f"net.{name}": tensor + 1 for name, tensor in before.items()}
    torch.save(checkpoint, file)  # as a run that has gone on does
    assert all(torch.equal(value, before[name] + 1) for name, value in mine.model.state_dict().items())
    assert other.training


def test_samples_come_with_labels_and_again_with_the_same_seed(run: mosaic.Run) -> None:
    images, labels = run.sample(client=1, count=5)
    assert images.shape == (5, 1, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert torch.equal(labels, labels.sort().values)
    assert torch.equal(run.sample(client=1, count=5).images, images)
    assert not torch.equal(run.sample(client=1, count=5, seed=1).images, images)


@pytest.mark.usefixtures("drawn")
def test_figures_show_themselves_and_hold_the_runs_numbers(run: mosaic.Run) -> None:
    partition, confusion = run.plot.partition(), run.plot.confusion()
    for figure in (partition, confusion, run.plot.samples(0)):
        assert figure._repr_png_().startswith(b"\x89PNG")
    held = np.asarray(partition.axes[0].images[0].get_array())
    assert np.array_equal(held, digits(4).class_counts.numpy())
    shares, test = np.asarray(confusion.axes[0].images[0].get_array()), SklearnDigits().load().test
    right = (np.diag(shares) * np.bincount(test.labels.numpy())).sum() / len(test)
    assert right == pytest.approx(run.summary["test_accuracy"])
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in run.plot.accuracy().axes[0].lines}
    assert curves["test"] == pytest.approx(100 * run.metrics["test_accuracy"].to_numpy())


def test_a_network_may_be_given_where_the_configuration_names_none(run: mosaic.Run, folder: Path) -> None:
    again = mosaic.load(folder, net=lambda shape, classes: SmallCNN(shape, classes, width=16)).model
    assert all(torch.equal(*pair) for pair in zip(again.parameters(), run.model.parameters(), strict=True))


def test_a_report_is_the_commands(run: mosaic.Run, tmp_path: Path) -> None:
    assert run.report(tmp_path / "page.html").read_text().count("<h1>Mosaic</h1>") == 1


def test_an_unfinished_run_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    for name in ("summary.json", "global.ckpt", "confusion.csv", "rounds"):
        left = tmp_path / "run" / name
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    run = mosaic.load(tmp_path / "run")
    assert "not finished" in repr(run)
    assert len(run.metrics) == 2
    for ask, told in (
        (lambda: run.summary, "has not finished"),
        (lambda: run.model, "expected the folder of a finished run"),
        (lambda: run.client_model(0), "is no file"),
        (run.plot.confusion, "has not finished"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            ask()


def test_damaged_files_are_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    for name in ("config.yaml", "confusion.csv", "partition.json", "summary.json"):
        (tmp_path / "run" / name).write_text("{1,\n")
    run = mosaic.load(tmp_path / "run")
    for ask, name in (
        (lambda: run.config, "config.yaml"),
        (lambda: run.summary, "summary.json"),
        (run.plot.confusion, "confusion.csv"),
        (run.plot.partition, "partition.json"),
    ):
        with pytest.raises(mosaic.MosaicError, match=rf"{name} is damaged \("):
            ask()
    with pytest.raises(mosaic.MosaicError, match=r"config\.yaml is damaged"):
        audit(tmp_path / "run")


def test_what_is_no_run_or_no_client_is_refused(run: mosaic.Run, tmp_path: Path) -> None:
    for ask, told in (
        (lambda: mosaic.load(tmp_path), "holds no run"),
        (lambda: mosaic.load(None), "run_dir: expected the folder of a run, got NoneType"),  # type: ignore[arg-type]
        (lambda: run.sample(client=9), "client: expected one of 0, 1, 2, 3, got 9"),
        (lambda: run.sample(client=1, count=0), "count: expected a number of images from 1 on, got 0"),
        (lambda: run.sample(client=1, seed=2**70), "seed: expected a whole number from 0 on"),
        (lambda: run.sample(client=[1]), r"sample.client: expected a whole number, got \[1\]"),  # type: ignore[arg-type]
        (lambda: run.client_model(0), "it holds no model of client 0, but one for all"),
        (lambda: mosaic.load(run.path, algorithm="mosaic"), "algorithm: expected that of the run"),  # type: ignore[arg-type]
        (lambda: run.report(3), "output: expected the file to write, got 3"),  # type: ignore[arg-type]
        (lambda: run.report(run.path / "config.yaml"), "is no report of mosaic"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            ask()


def test_a_damaged_summary_does_not_keep_a_run_from_being_shown(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "summary.json").write_text("{")
    assert repr(mosaic.Run(tmp_path)).endswith("summary.json cannot be read)")


def test_it_is_found_wherever_a_notebook_goes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    run = mosaic.load(folder.name)
    monkeypatch.chdir(tmp_path)
    assert "not finished" not in repr(run)
    assert len(run.metrics) == run.summary["rounds"]
    numpys = run.sample(np.int64(1), np.int64(2), seed=np.int64(3))
    assert torch.equal(numpys.images, run.sample(1, 2, seed=3).images)
