"""Fixtures that more than one directory needs."""

import os
from functools import partial

import pytest
import torch

from mosaic.nets import Blueprint, SmallCNN
from mosaic.phases import PhaseRunner

# LightningCLI calls names that jsonargparse has renamed: https://github.com/Lightning-AI/pytorch-lightning/issues/21900
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
torch.set_num_threads(1)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def blueprint() -> Blueprint:
    """Three classes of 8x8 grey images, 2,800 parameters."""
    return Blueprint(partial(SmallCNN, width=4), (1, 8, 8), 3, (0.5,), (0.25,))


@pytest.fixture(scope="session")
def phases() -> PhaseRunner:
    return PhaseRunner({"accelerator": "cpu", "devices": 1})
