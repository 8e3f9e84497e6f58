# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A new gate in twenty lines
#
# The gate says whom to believe. It is given what every expert says of an image, logits of shape `(B, E, C)`, and returns
# one opinion, `(B, C)`. Here is one that listens to experts as far as they have seen the class that they speak for.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import mosaic
from mosaic.algorithms import Mosaic
from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.teachers import Evidence, Fusion, GatedTeacher, Mean

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The gate


# %%
class Seen(nn.Module):
    """Weighs what experts say of a class by how many of its images they have seen, to some power."""

    def __init__(self, counts: Tensor, power: float) -> None:
        super().__init__()
        weights = counts.float() ** power
        self.register_buffer("weights", weights / weights.sum(0, keepdim=True).clamp(min=1e-9))

    def forward(self, expert_logits: Tensor) -> Tensor:
        return (self.weights * expert_logits.log_softmax(-1)).sum(1)


class SeenMost(GatedTeacher):
    """Experts speak about what they have seen."""

    def __init__(self, power: float = 0.5) -> None:
        super().__init__()
        self.power = power

    def gate(self, experts, evidence: Evidence) -> Seen:
        return Seen(experts.class_counts, self.power)


# %% [markdown]
# A case by hand: two experts, two classes, and each has seen one of them. Whatever they say of the other does not count.

# %%
gate = Seen(torch.tensor([[10, 0], [0, 10]]), power=0.5)
opinions = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
print(gate(opinions))
assert torch.allclose(gate(opinions)[0, 0], opinions[0, 0].log_softmax(-1)[0])

# %% [markdown]
# ## Beside others
#
# `Mean` is the plain ensemble, `Fusion` the default. All three run on the same clients with the same seed.

# %%
data = FederatedDataModule(SklearnDigits(), DirichletPartition(num_clients=10, alpha=0.05), batch_size=32)
schedule = mosaic.Schedule(collaborative_rounds=4, fine_tune_rounds=0, learning_rate=0.1)
stages = {}
for teacher in (Mean(), SeenMost(), Fusion()):
    name = type(teacher).__name__
    algorithm = Mosaic(teacher=teacher)
    federation = mosaic.Federation(run_dir=str(folder / name), schedule=schedule)
    stages[name] = federation.fit(data=data, algorithm=algorithm, trainer={"accelerator": "cpu"}).summary["stages"]

# %%
shown = ["global before distillation", "plain ensemble", "gated teacher", "student"]
pd.DataFrame(stages).loc[shown].mul(100).round(2)

# %% [markdown]
# The line *gated teacher* is where they differ: that is the gate. The students differ less, and all end above their
# teachers: the server knows which digit it has asked a generator for, and counts that beside the teacher's opinion. So a
# gate is worth most where generators are weak, or where images cannot be asked for by class.
#
# To use one from a shell, put it into a file: `python -m mosaic fit --config configs/digits.yaml --algorithm.teacher
# my_gates.SeenMost`. One seed proves nothing; `fair_comparison` has what does.
