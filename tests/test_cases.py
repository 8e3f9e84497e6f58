import pytest

from tests.cases import for_each


def test_a_failure_names_its_case_and_no_case_is_left_out() -> None:
    seen = []

    @for_each("number", [1, 2, 3])
    @for_each(("letter", "sign"), [("a", +1), ("b", -1)])
    def check(base: int, number: int, letter: str, sign: int) -> None:
        seen.append((base, number, letter, sign))
        assert (number, letter) != (3, "b")

    with pytest.raises(AssertionError) as caught:
        check(base=7)
    assert seen == [(7, number, letter, sign) for number in (1, 2, 3) for letter, sign in (("a", 1), ("b", -1))]
    assert caught.value.__notes__ == ["in the case {'letter': 'b', 'sign': -1}", "in the case {'number': 3}"]


def test_no_case_is_no_test() -> None:
    with pytest.raises(AssertionError, match="without a case cannot fail"):
        for_each("number", [])
