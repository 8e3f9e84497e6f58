"""Every exported form gives the logits of the run's own model, for any number of images."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import mosaic
from mosaic.cli.main import main
from mosaic.errors import MosaicError
from mosaic.nets import Classifier, SmallCNN
from mosaic.nets.classifier import ImageShape
from mosaic.report.export import Format, export
from mosaic.report.html import report
from mosaic.runs.trained_model import load_model, load_safetensors
from mosaic.tasks.distillation import DistillationSettings
from tests.small_runs import REPOSITORY, TWO_ROUNDS, SharedRuns, final_model, fit_other

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""Other programs sum in another order."""


@pytest.fixture(scope="session")
def run(shared_run: SharedRuns) -> Path:
    return shared_run("FedAvg", *TWO_ROUNDS)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 7])
def images(request: pytest.FixtureRequest) -> Tensor:
    return torch.rand(request.param, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def logits(run: Path, images: Tensor) -> Tensor:
    """What the network of the run says, built here without the code under test."""
    net = SmallCNN((1, 8, 8), 10, width=16)
    net.load_state_dict({name.removeprefix("net."): tensor for name, tensor in final_model(run).items()})
    with torch.no_grad():
        answer: Tensor = net.eval()(images)
    return answer


def test_safetensors_come_back_bit_for_bit(run: Path, images: Tensor, logits: Tensor, tmp_path: Path) -> None:
    model = load_safetensors(export(run, "safetensors", tmp_path / "m.safetensors"))
    with torch.no_grad():
        assert torch.equal(model.net(images), logits)
    assert json.loads(model.facts["class_names"]) == list("0123456789")


class Typed(Classifier):
    """Arguments that YAML holds as text or lists, and other ones."""

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        act: type[nn.Module] = nn.Tanh,
        widths: tuple[int, ...] = (4,),
        kind: Format = "onnx",
        place: Path = Path("here"),
        settings: DistillationSettings = DistillationSettings(),
    ) -> None:
        super().__init__(image_shape, num_classes)
        self.told = {widths: place.name, kind: settings.steps}
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, widths[0]), act())
        self.head = nn.Linear(widths[0], num_classes)


def test_a_network_gets_arguments_of_the_types_that_it_asks_for(tmp_path: Path) -> None:
    run = fit_other(tmp_path / "run", "FedAvg", f"--model.net={__name__}.Typed")
    net = mosaic.load(run).model
    assert isinstance(net, Typed)
    assert isinstance(net.body, nn.Sequential)
    assert isinstance(net.body[2], nn.Tanh)
    assert net.told == {(4,): "here", "onnx": DistillationSettings().steps}
    again = load_safetensors(export(run, "safetensors", tmp_path / "m.safetensors")).net
    assert all(tensor.equal(net.state_dict()[name]) for name, tensor in again.state_dict().items())


@pytest.mark.slow
def test_a_program_needs_no_mosaic(run: Path, images: Tensor, logits: Tensor, tmp_path: Path) -> None:
    file = export(run, "torch", tmp_path / "m.pt2")
    torch.save(images, tmp_path / "images.pt")
    program = """
import json, sys, torch
facts = {"mosaic.json": ""}
net = torch.export.load(sys.argv[1], extra_files=facts).module()
torch.save(net(torch.load(sys.argv[2])).detach(), sys.argv[3])
print(json.loads(json.loads(facts["mosaic.json"])["class_names"])[-1], "mosaic" in sys.modules)
"""
    paths = [str(path) for path in (file, tmp_path / "images.pt", tmp_path / "logits.pt")]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "False"]
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits, **CLOSE)


def test_onnx_runs_elsewhere(run: Path, images: Tensor, logits: Tensor, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install '.[onnx]'")
    pytest.importorskip("onnxscript", reason="pip install '.[onnx]'")
    session = runtime.InferenceSession(export(run, "onnx", tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (answer,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), logits, **CLOSE)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list("0123456789")
    assert json.loads(facts["image_shape"]) == [1, 8, 8]


def test_onnx_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MosaicError, match=r"needs onnx and onnxruntime and onnxscript: pip install onnx onnxruntime"):
        export(run, "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_beside_the_checkpoint_and_never_overwrites(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    main(["export", str(own)])
    file = own / "global.safetensors"
    assert capsys.readouterr().out == f"Exported: {file}\n"
    before = file.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(own)])
    assert stop.value.code == 2
    assert "never overwritten: choose another --output" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize(("format", "name", "advice"), [("safetensors", "m.onnx", "onnx"), ("onnx", "m.pt2", "torch")])
def test_a_name_that_ends_as_another_format_is_refused(
    format: Format, name: str, advice: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(MosaicError, match=rf"--output: .*got .*{name} with --format {format}: give --format {advice}"):
        export(run, format, tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_in_a_folder_of_its_run_is_enough(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run" / "clients" / "03.ckpt"
    own.parent.mkdir(parents=True)
    own.write_bytes((run / "global.ckpt").read_bytes())
    (tmp_path / "run" / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(MosaicError, match=r"no global model.*choose one of 1, for example .*03\.ckpt"):
        export(tmp_path / "run")
    assert export(own) == own.with_suffix(".safetensors")


@pytest.fixture(scope="module", params=["architectures", "levels"])
def own_models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose four clients keep models of their own."""
    pools = {
        "architectures": f"--config={REPOSITORY / 'configs' / 'clients' / 'three_architectures.yaml'}",
        "levels": "--clients.levels=[1.0,0.5]",
    }
    return fit_other(tmp_path_factory.mktemp("own") / "run", "LocalOnly", pools[request.param])


@pytest.mark.slow
def test_every_clients_own_model_leaves_as_the_network_that_it_is(own_models: Path, images: Tensor) -> None:
    """The forms agree, and hold the client's weights: in a pool these differ in shape from client to client."""
    shapes = set()
    for checkpoint in sorted((own_models / "clients").glob("*.ckpt")):
        kept = torch.load(checkpoint, weights_only=True)["state_dict"]
        shapes.add(tuple(tensor.shape for tensor in kept.values()))
        model, program = checkpoint.with_suffix(".safetensors"), checkpoint.with_suffix(".pt2")
        net = load_safetensors(model if model.exists() else export(checkpoint)).net
        assert all(torch.equal(tensor, kept[f"net.{name}"]) for name, tensor in net.state_dict().items())
        taken = torch.export.load(program if program.exists() else export(checkpoint, "torch")).module()
        with torch.no_grad():
            torch.testing.assert_close(taken(images), net(images), **CLOSE)
    assert len(shapes) > 1


def test_a_network_may_be_named_by_its_class_alone(run: Path, logits: Tensor, images: Tensor, tmp_path: Path) -> None:
    """Sixteen channels are the default, and those of the run."""
    of_another_network(run, tmp_path, "mosaic.nets.SmallCNN")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "global.ckpt").net(images), logits)


def test_a_checkpoint_of_another_network_is_refused(run: Path, tmp_path: Path) -> None:
    of_another_network(run, tmp_path, "mosaic.nets.MLP")
    with pytest.raises(MosaicError, match=r"does not fit the network \(mosaic\.nets\.MLP\) of its run"):
        load_model(tmp_path / "global.ckpt")


@pytest.mark.parametrize("network", ["nowhere.at.all.Net", "mosaic.nets.Renamed", "Net"])
def test_a_network_that_cannot_be_imported_is_named(network: str, run: Path, tmp_path: Path) -> None:
    of_another_network(run, tmp_path, network)
    with pytest.raises(MosaicError, match=f"the network of this model, {network}, cannot be imported"):
        load_model(tmp_path / "global.ckpt")


@pytest.mark.parametrize("content", ["data: {}", "model: 1"])
def test_a_configuration_of_something_else_is_refused(content: str, run: Path, tmp_path: Path) -> None:
    of_another_network(run, tmp_path, "any")
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(MosaicError, match=r"expected the configuration of a run, with a model\.net"):
        load_model(tmp_path / "global.ckpt")


@pytest.mark.parametrize("content", ["", "- 1", "a: ["])
def test_a_damaged_configuration_is_one_line(content: str, run: Path, tmp_path: Path) -> None:
    of_another_network(run, tmp_path, "any")
    (tmp_path / "config.yaml").write_text(content)
    for read in (lambda: load_model(tmp_path / "global.ckpt"), lambda: report(tmp_path)):
        with pytest.raises(MosaicError, match=r"config\.yaml is damaged \(.*\): restore it from a copy"):
            read()


def test_a_file_of_the_same_name_with_an_ending_is_left_alone(run: Path, tmp_path: Path) -> None:
    for name in ("model.tmp", ".model.tmp"):
        (tmp_path / name).write_text("mine")
    export(run, "safetensors", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.tmp", "model", "model.tmp"]


def of_another_network(run: Path, folder: Path, network: str) -> None:
    """Put the run's checkpoint beside a configuration that names this network."""
    (folder / "global.ckpt").write_bytes((run / "global.ckpt").read_bytes())
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"net": network}}))


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ([], "expected the folder of a finished run"),
        (["global.ckpt"], "expected the config.yaml of its run beside it"),
    ],
)
def test_what_is_missing_is_said(left: list[str], message: str, run: Path, tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(MosaicError, match=message):
        export(tmp_path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(MosaicError, match="not a readable checkpoint"):
        export(tmp_path / "x.ckpt")


def rewritten(run: Path, folder: Path, **facts: object) -> Path:
    """Safetensors of a run whose file says something else about itself."""
    file = export(run, "safetensors", folder / "model.safetensors")
    with safe_open(file, "pt") as content:
        told = {**content.metadata(), **{name: value for name, value in facts.items() if isinstance(value, str)}}
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    save_file(tensors, file, {name: value for name, value in told.items() if facts.get(name, "") is not None})
    return file


@pytest.mark.parametrize("network", ["subprocess.Popen", "os.system", "mosaic.nets.Blueprint", "torch.nn.Linear"])
def test_a_file_that_names_another_class_runs_nothing(network: str, run: Path, tmp_path: Path) -> None:
    """Neither weights from a stranger nor the folder of a stranger's run."""
    arguments = json.dumps({"args": f"touch {tmp_path / 'ran'}", "shell": True})
    file = rewritten(run, tmp_path, network=network, init_args=arguments)
    with pytest.raises(MosaicError, match=f"{network}: expected a subclass of mosaic.nets.Classifier"):
        load_safetensors(file)
    of_another_network(run, tmp_path, network)
    with pytest.raises(MosaicError, match=f"{network}: expected a subclass of mosaic.nets.Classifier"):
        load_model(tmp_path / "global.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "facts",
    [
        {"image_shape": "[1, 8]"},
        {"image_shape": "[1, 8, -8]"},
        {"image_shape": '"188"'},
        {"image_shape": "[1, 8, 1e9]"},
        {"class_names": "3"},
        {"init_args": "[1]"},
        {"init_args": '{"width": 8}'},
        {"level": "null"},
        {"network": None},
    ],
    ids=str,
)
def test_weights_that_say_nonsense_of_themselves_are_refused(
    facts: dict[str, str | None], run: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        MosaicError, match=r"model\.safetensors: expected what mosaic export writes, got something else"
    ):
        load_safetensors(rewritten(run, tmp_path, **facts))


class Tokens(Classifier):
    """Works the size of a batch out in Python, which fixes it in a traced program."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.first, self.body = nn.Parameter(torch.zeros(1, 1, 64)), nn.Identity()
        self.head = nn.Linear(64, num_classes)

    def features(self, images: Tensor) -> Tensor:
        rows = self.normalize(images).flatten(1)[:, None]
        return torch.cat([self.first.expand(len(images), -1, -1), rows], 1).mean(1)


@pytest.mark.parametrize("format", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_program_for_one_size_of_batch_is_refused_and_not_left(format: Format, tmp_path: Path) -> None:
    run = fit_other(tmp_path / "run", "FedAvg", "--model.net=tests.report.test_export.Tokens")
    with pytest.raises(MosaicError, match=f"--format {format}: .*batch.*take x") as caught:
        export(run, format)
    assert "\n" not in str(caught.value)
    assert not [file for file in run.iterdir() if file.suffix in (".onnx", ".pt2", ".tmp")]
    assert export(run, "safetensors").exists()
