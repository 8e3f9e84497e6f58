"""What jsonargparse complains of, as a line that somebody can read."""

from pathlib import Path

import pytest

from mosaic.cli.complaints import LONGEST, complaint, shortened
from mosaic.cli.main import main
from tests.small_runs import DIGITS

NESTED = """Parser key "algorithm":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'mosaic.algorithms.base.Algorithm'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'mosaic.algorithms.Mosaic':
        Parser key "distillation.view":
          - Expected a path but nonsense either not accessible or invalid
          Errors:
            - Expected a dot import path string: nonsense
            - Expected a <class 'NoneType'>
          Given value type: <class 'str'>
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='distillation.view', val='nonsense')
"""


def test_the_innermost_key_is_named_and_what_was_expected_there() -> None:
    assert complaint(NESTED) == "algorithm.distillation.view: expected the path of a class, got nonsense"


NO_SETTINGS = """Parser key "algorithm":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'mosaic.algorithms.Mosaic':
        Parser key "replay":
        Unable to load config '3'
          - Parser key "replay": Unable to load config "3"
    - Expected a <class 'NoneType'>
  Given value: NestedArg(key='replay', val='3')
"""
NO_CLASS = """Parser key "algorithm":
  Errors:
    - Problem with given class_path 'mosaic.algorithms.Mosaic':
        Parser key "generation":
          Not a valid subclass of Generation. Got value: []
          Subclass types expect one of:
          - a class path (str)
    - Expected a <class 'NoneType'>
"""


def test_settings_and_classes_that_are_neither_are_told_with_their_key() -> None:
    assert complaint(NO_SETTINGS) == (
        "algorithm.replay: expected settings by name, or the path of a YAML file that holds them, got 3"
    )
    assert complaint(NO_CLASS) == (
        "algorithm.generation: expected the path of a class, or class_path and init_args, got []"
    )


def test_a_complaint_without_a_key_stays_as_it_is() -> None:
    assert complaint("argument --executor: expected one argument") == "argument --executor: expected one argument"


UNION = """Parser key "trainer.precision":
  Does not validate against any of the Union subtypes
  Subtypes: [typing.Literal[64, 32], typing.Literal['16-mixed', '64'], <class 'NoneType'>]
  Errors:
    - Expected a typing.Literal[64, 32]
    - Expected a typing.Literal['16-mixed', '64']
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: 17
"""
NESTED_UNION = """Parser key "executor":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'mosaic.executors.base.ClientExecutor'>, <class 'bool'>]
  Errors:
    - Problem with given class_path 'mosaic.executors.SerialExecutor':
        Parser key "threads":
          Errors:
            - Expected a <class 'int'>
            - Expected a <class 'NoneType'>
          Given value type: <class 'str'>
          Given value: two
    - Expected a <class 'bool'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='threads', val='two')
"""


def test_what_a_class_itself_says_is_told_without_what_stands_around_it() -> None:
    around = "Does not validate against any of the Union subtypes\nErrors:\n  - cannot have n 3\n"
    around += "  - Not a valid subclass of Callback\n    Subclass types expect one of:\n    - a class path (str)\n"
    assert complaint(f"{around}Given value type: <class 'list'>\nGiven value: [3]") == "cannot have n 3"


def test_kinds_and_choices_are_called_what_they_are_in_yaml() -> None:
    assert complaint(UNION) == "trainer.precision: expected 64, 32, 16-mixed or null, got 17"
    assert complaint(NESTED_UNION) == "executor.threads: expected a whole number or null, got two"
    none = "Parser key \"data.batch_size\":\n  Expected a <class 'int'>. Got value: None"
    assert complaint(none) == "data.batch_size: expected a whole number, got null"


def test_a_key_of_a_file_is_told_with_what_may_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (overlay := tmp_path / "overlay.yaml").write_text("federation: {schedule: {local_step: 3}}")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(DIGITS), "--config", str(overlay)])
    told = "federation.schedule.local_step: there is no such setting: did you mean federation.schedule.local_steps?"
    assert capsys.readouterr().err == f"mosaic: error: {told}\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            "--algorithm FedAv",
            "algorithm: expected the path of a class, got FedAv: did you mean mosaic.algorithms.FedAvg?",
        ),
        (
            "--data.source mosaic.data.SklearnDigit",
            "data.source: there is no class mosaic.data.SklearnDigit: did you mean mosaic.data.SklearnDigits?",
        ),
        (
            "--model.optimizer SDG",
            "model.optimizer: expected the path of a class, got SDG: did you mean torch.optim.SGD?",
        ),
        (
            "--model.net SmallCNN --model.net.wdth 3",
            "model.net.wdth: there is no such setting: did you mean model.net.width?",
        ),
        ("--model.net mosaic.data.Images", "model.net: expected a subclass of Classifier, got mosaic.data.Images"),
        ("--algorithm mosaic.nets.MLP", "algorithm: expected a subclass of Algorithm, got mosaic.nets.MLP"),
        ("--algorithm []", "algorithm: expected the path of a class, or class_path and init_args, got []"),
        (
            "--algorithm here/my_algorithms.py",
            "algorithm: expected the path of a class, such as my_algorithms.ClassName, got that of a file, "
            "here/my_algorithms.py",
        ),
        ("--model.optimizer.momentum high", "model.optimizer.momentum: expected a number, got high"),
        (
            "--algorithm.distilation.steps 3",
            "algorithm.distilation.steps: there is no such setting: did you mean algorithm.distillation.steps?",
        ),
        (
            "--federation.faulst.quorum 3",
            "--federation.faulst.quorum: there is no such option: did you mean --federation.faults.quorum?",
        ),
        ("--speed 3", "--speed: there is no such option: see --help"),
        ("--federation.loggers 3", "federation.loggers: expected a list or null, got 3"),
    ],
)
def test_what_jsonargparse_complains_of_is_told_with_what_may_be_meant(
    flags: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(DIGITS), *flags.split()])
    assert capsys.readouterr().err == f"mosaic: error: {told}\n"


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_a_path_without_an_option_is_told_with_the_options_it_may_be_meant_for(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(given: Path) -> str:
        with pytest.raises(SystemExit):
            main([command, str(given)])
        return capsys.readouterr().err.removeprefix(f"mosaic: error: expected options, got {given}: ").strip()

    config, model = tmp_path / "config.yaml", tmp_path / "global.ckpt"
    assert told(tmp_path) == "see --help"
    config.touch()
    assert told(config) == f"did you mean --config {config}?"
    assert told(tmp_path) == f"did you mean --config {config} --ckpt_path auto?"
    model.touch()
    assert told(tmp_path) == f"did you mean --config {config} --ckpt_path {model}?"


def test_a_long_one_loses_the_dump_of_all_that_was_given() -> None:
    dump = f"Expected a number.\nGiven value: Namespace({'x=1, ' * 300})"
    assert shortened(dump) == "Expected a number."
    assert len(shortened("word " * 500)) < LONGEST + 10
