import pytest
import torch

from mosaic.federation.measuring import _validation
from mosaic.server.cohort import Judgement


def test_the_worst_client_has_enough_images_to_be_judged() -> None:
    right, images = torch.tensor([[10], [5], [0]]), torch.tensor([[20], [20], [19]])
    said = _validation(Judgement(right, images, torch.zeros(3, 1), (0, 1, 2)))
    assert said.worst == 0.25
    assert said.accuracy == pytest.approx(15 / 59)
