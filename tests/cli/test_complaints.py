"""What jsonargparse complains of, as a line that somebody can read."""

from mosaic.cli.complaints import LONGEST, complaint, shortened

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
    assert complaint(NESTED) == (
        "algorithm.distillation.view: Expected a path but nonsense either not accessible or invalid; "
        "Expected a dot import path string: nonsense"
    )


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


def test_a_plain_complaint_stays_as_it_is() -> None:
    text = "Parser key \"data.batch_size\":\n  Expected a <class 'int'>. Got value: x"
    assert complaint(text) == " ".join(text.split())
    assert complaint("Unrecognized arguments: --speed") == "Unrecognized arguments: --speed"


def test_a_long_one_loses_the_dump_of_all_that_was_given() -> None:
    dump = f"Expected a number.\nGiven value: Namespace({'x=1, ' * 300})"
    assert shortened(dump) == "Expected a number."
    assert complaint(f'Parser key "a":\n  {dump}') == "a: Expected a number."
    assert len(shortened("word " * 500)) < LONGEST + 10
