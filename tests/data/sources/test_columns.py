"""Columns of parquet files and of the hub's tables."""

import pyarrow
import pytest

from mosaic.data.sources.columns import values_of
from mosaic.errors import MosaicError


def test_numbered_values_are_what_they_stand_for() -> None:
    column = pyarrow.chunked_array([pyarrow.array(["b", "a", "b"]).dictionary_encode()])
    assert values_of(column, "who", "here").tolist() == ["b", "a", "b"]


@pytest.mark.parametrize("encoded", [True, False])
def test_a_missing_value_is_nobody_elses(encoded: bool) -> None:
    values = pyarrow.array(["a", None, "b", None])
    column = pyarrow.chunked_array([values.dictionary_encode() if encoded else values])
    with pytest.raises(MosaicError, match="here: expected a value in each row of column 'who', got none in 2 of 4"):
        values_of(column, "who", "here")


def test_several_values_in_a_row_are_refused() -> None:
    with pytest.raises(MosaicError, match="expected a single value in each row of column 'who', got list"):
        values_of(pyarrow.chunked_array([[["a"], ["b", "c"]]]), "who", "here")
