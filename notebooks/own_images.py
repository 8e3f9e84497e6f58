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
# # Your own images, your own network
#
# Three workshops inspect the same part and keep their pictures to themselves. Each has its own defects. The pictures are
# made here, so that this notebook needs no download: any `torch.utils.data.Dataset` of your own takes their place.

# %%
import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import Dataset

import mosaic
from mosaic.algorithms import FedAvg, Mosaic
from mosaic.nets import Classifier

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A dataset for each client
#
# An item is a pair of an image and its label. Images may be tensors, arrays or PIL images, all of one size.

# %%
KINDS = ["whole", "scratch", "hole", "edge"]


class Parts(Dataset):
    """Pictures of 24 x 24 pixels of a part, with one of four looks."""

    def __init__(self, counts, seed):
        self.labels = [kind for kind, count in enumerate(counts) for _ in range(count)]
        self.seed = seed

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        random = torch.Generator().manual_seed(1000 * self.seed + index)
        image = 0.6 + 0.06 * torch.randn(24, 24, generator=random)
        row, column = (int(place) for place in torch.randint(8, 12, (2,), generator=random))
        match KINDS[self.labels[index]]:
            case "scratch":
                steps = torch.arange(7)
                image[row + steps // 2, column + steps // 2 - 3] -= 0.45
                image[row + steps // 2, column + steps // 2 - 2] -= 0.45
            case "hole":
                image[row : row + 4, column : column + 4] -= 0.45
            case "edge":
                image[:, :3] -= 0.45
        return image.clamp(0, 1)[None], self.labels[index]


workshops = [Parts([60, 90, 0, 0], seed=1), Parts([60, 0, 80, 5], seed=2), Parts([40, 4, 0, 90], seed=3)]
test = Parts([100, 100, 100, 100], seed=4)
data = mosaic.data.from_datasets(workshops, test=test, class_names=KINDS, batch_size=32)

# %%
figure, places = plt.subplots(1, 4, figsize=(8, 2.2))
for kind, place in enumerate(places):
    place.imshow(test[100 * kind][0][0], cmap="gray", vmin=0, vmax=1)
    place.set(xticks=[], yticks=[], title=KINDS[kind])

# %% [markdown]
# ## A network
#
# `body` makes features of normalised images, `head` makes logits of features.


# %%
class Inspector(Classifier):
    """Two convolutions and a linear layer."""

    def __init__(self, image_shape, num_classes, width=12):
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )
        self.head = nn.Linear(9 * 2 * width, num_classes)


# %% [markdown]
# ## Run it
#
# A schedule, an algorithm, and what Lightning's Trainer should be told. Everything else has defaults.

# %%
schedule = mosaic.Schedule(collaborative_rounds=6, local_steps=20, fine_tune_rounds=2, learning_rate=0.03)
runs = {}
for name, algorithm in {"FedAvg": FedAvg(), "Mosaic": Mosaic()}.items():
    federation = mosaic.Federation(run_dir=str(folder / name), schedule=schedule)
    runs[name] = federation.fit(
        net=partial(Inspector, width=16), data=data, algorithm=algorithm, trainer={"accelerator": "cpu"}
    )
runs

# %%
runs["Mosaic"].plot.partition()

# %%
runs["Mosaic"].plot.confusion()

# %% [markdown]
# Seeds and rounds are few here, so the figures say that it works, not how much it helps. `fair_comparison` has how to
# find that out.
#
# ## The model in use

# %%
image, label = test[150]
probabilities = runs["Mosaic"].model(image[None]).softmax(-1)[0]
print(f"a {KINDS[label]}:", {kind: round(float(p), 2) for kind, p in zip(KINDS, probabilities, strict=True)})

# %% [markdown]
# A run made of objects lies in a folder like any other, and goes on after a kill with `fit(..., ckpt_path="auto")`.
# `mosaic.load` reads it again; since its `config.yaml` only describes the objects, it is told the network.

# %%
mosaic.load(folder / "Mosaic", net=partial(Inspector, width=16))
