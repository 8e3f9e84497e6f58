"""Read columns of pyarrow tables as arrays."""

from typing import Any

import numpy as np

from mosaic.errors import MosaicError


def values_of(column: Any, name: str, origin: str) -> np.ndarray:
    """Return one value for each row of a column.

    Raises:
        MosaicError: rows have no value, or several.
    """
    import pyarrow

    if column.null_count:
        raise MosaicError(
            f"{origin}: expected a value in each row of column {name!r}, got none in {column.null_count} of "
            f"{len(column)}: fill them, or leave these rows out"
        )
    if pyarrow.types.is_nested(column.type):
        raise MosaicError(f"{origin}: expected a single value in each row of column {name!r}, got {column.type}")
    plain = column.cast(column.type.value_type) if pyarrow.types.is_dictionary(column.type) else column
    values: np.ndarray = plain.to_numpy()
    return values
