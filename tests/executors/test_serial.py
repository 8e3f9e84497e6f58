"""What ranks that train together make of one reply."""

from typing import Any

import pytest
import torch

from mosaic.executors import serial
from mosaic.messages import Declined, EvaluateReply, GeneratorReply, PrototypeReply, Reply, TrainReply

COUNTS, MODEL = torch.tensor([2, 1]), {"weight": torch.ones(2)}


def replies(value: float) -> list[Reply]:
    """One of each kind, with figures that ranks compute by themselves."""
    own, curve = torch.tensor([value, 1.0]), torch.tensor([value])
    judgement = {"loss": own.double()}
    return [
        TrainReply(0, MODEL, COUNTS, {"loss": value}, {}),
        TrainReply(0, MODEL, COUNTS, {"loss": value}, judgement),
        GeneratorReply(0, {"mean": own}, COUNTS, {"attempts": 1, "distance": value}, {"loss": curve}),
        PrototypeReply(0, own[:, None], COUNTS, COUNTS),
        EvaluateReply(0, COUNTS, COUNTS, own.double()),
    ]


@pytest.mark.parametrize("kind", range(len(replies(0.0))))
@pytest.mark.parametrize("declines", [False, True])
def test_every_rank_judges_the_figures_of_rank_0(kind: int, declines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the other rank's share is infinite, and that of rank 0 is not."""
    first, other = replies(0.5)[kind], replies(torch.inf)[kind]
    if declines and not isinstance(first, TrainReply):  # a trained model is the same on all ranks
        other = Declined(0, "its Gaussians are not finite")
    said: list[Any] = []

    def by_rank_0(value: Any) -> Any:
        said.append(value)
        return said[0]

    monkeypatch.setattr(serial, "world_size", lambda: 2)
    monkeypatch.setattr(serial, "said_by_rank_0", by_rank_0)
    ours, theirs = serial._agreed(first), serial._agreed(other)
    assert len(said) == 2
    assert repr(ours) == repr(theirs) == repr(first)
