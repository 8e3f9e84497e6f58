"""Objects that a configuration names, and what is none."""

from mosaic.training.instantiation import instantiate


def test_configured_objects_are_built_inside_out() -> None:
    inner = {"class_path": "fractions.Fraction", "init_args": {"numerator": 1, "denominator": 4}}
    half = {"class_path": "fractions.Fraction", "init_args": {"numerator": inner}, "dict_kwargs": {"denominator": 2}}
    (built,) = instantiate([half])
    assert built == 0.125


def test_what_is_no_object_is_left_as_it_is() -> None:
    assert instantiate({"a": [1, "b"]}) == {"a": [1, "b"]}
    assert instantiate(None) is None
