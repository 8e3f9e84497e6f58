"""Lightning's notices while this package works, and afterwards."""

import logging

import pytest

from mosaic.training.silence import silence


@pytest.mark.parametrize("part", ["fabric", "pytorch"])
def test_lightning_says_no_more_than_warnings_meanwhile(part: str) -> None:
    logger = logging.getLogger(f"lightning.{part}")
    logger.setLevel(logging.INFO)
    with silence():
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
    assert logger.level == logging.INFO


def test_somebody_who_wants_errors_alone_keeps_to_that() -> None:
    logger = logging.getLogger("lightning.pytorch")
    logger.setLevel(logging.ERROR)
    with silence():
        assert logger.level == logging.ERROR
    assert logger.level == logging.ERROR
    logger.setLevel(logging.INFO)
