"""Clients on hosts of their own: the same bits as simulated ones, and a server without images."""

from pathlib import Path

import pytest
import torch

from tests.remote_clients import deployed, simulated, start_residents, write_parts
from tests.small_runs import FOUR_ROUNDS, final_model


def same_models(one: Path, other: Path) -> bool:
    ours, theirs = final_model(one), final_model(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_parts(tmp_path)


@pytest.mark.parametrize("algorithm", ["Mosaic"])
def test_deployed_is_simulated_bit_for_bit(algorithm: str, config: Path, tmp_path: Path) -> None:
    start_residents(config, algorithm, *FOUR_ROUNDS)
    one = deployed(tmp_path / "deployed", config, algorithm, *FOUR_ROUNDS)
    other = simulated(tmp_path / "simulated", algorithm, *FOUR_ROUNDS)
    assert same_models(one, other)
