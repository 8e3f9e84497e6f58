from typing import Any

import pytest

from mosaic.errors import MosaicError
from mosaic.server.faults import Faults


def test_one_number_holds_for_all_phases_and_a_mapping_for_those_that_it_names() -> None:
    one, each = Faults(deadline=9.0, quorum=0.2), Faults(deadline={"train": 9.0}, quorum={"judge": 0.2})
    assert [one.deadline_of("train"), one.deadline_of("judge")] == [9.0, 9.0]
    assert [each.deadline_of("train"), each.deadline_of("judge")] == [9.0, None]
    assert [one.quorum_of("train"), one.quorum_of("judge")] == [0.2, 0.2]
    assert [each.quorum_of("train"), each.quorum_of("judge")] == [0.5, 0.2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"deadline": 0.0}, "federation.faults.deadline: expected a number above 0, got 0.0"),
        ({"deadline": {"judge": -1.0}}, "federation.faults.deadline.judge: expected a number above 0, got -1.0"),
        ({"quorum": 1.5}, r"federation.faults.quorum: expected a share in \[0, 1\], got 1.5"),
        ({"quorum": {"judge": 2.0}}, r"federation.faults.quorum.judge: expected a share in \[0, 1\], got 2.0"),
        ({"deadline": {"training": 1.0}}, "out of train, generate, summarise, judge, got training"),
        ({"retries": -1}, "federation.faults.retries: expected 0 or more, got -1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(MosaicError, match=said):
        Faults(**settings)
