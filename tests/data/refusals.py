"""What every refusal has to be: one line that says what was expected, what was got and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mosaic.errors import MosaicError


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Expect a MosaicError of one line that contains all of these."""
    with pytest.raises(MosaicError) as caught:
        yield
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert [part for part in parts if part not in message] == [], message
