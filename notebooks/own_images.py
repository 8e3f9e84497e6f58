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
# Three post offices read handwritten digits and keep their letters to themselves. One sees mostly low digits, one mostly
# high ones. The images are scikit-learn's, so that this notebook needs no download; any `torch.utils.data.Dataset` of
# your own takes their place.

# %%
import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_tensor

import mosaic
from mosaic.algorithms import FedAvg, Mosaic
from mosaic.nets import Classifier

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A dataset for each client
#
# An item is a pair of an image and its label. Images may be PIL images, tensors or arrays, all of one size.

# %%
everything = load_digits()


class Letters(Dataset):
    """The digits of one post office, as PIL images.

    Args:
        first: index of the first image in scikit-learn's collection.
        last: index behind the last one.
        digits: those that this office gets to see.
    """

    def __init__(self, first, last, digits=range(10)):
        self.rows = [row for row in range(first, last) if everything.target[row] in digits]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        pixels = (255 / 16 * everything.images[row]).astype("uint8")
        return Image.fromarray(pixels), int(everything.target[row])


offices = [Letters(0, 500, range(4)), Letters(500, 900, range(3, 8)), Letters(900, 1200, [7, 8, 9])]
test = Letters(1200, 1797)
data = mosaic.data.from_datasets(offices, test=test, batch_size=32)
[len(office) for office in offices]

# %%
figure, places = plt.subplots(1, 8, figsize=(8, 1.3))
for place, (image, label) in zip(places, (test[index] for index in range(8)), strict=True):
    place.imshow(image, cmap="gray")
    place.set(xticks=[], yticks=[], title=label)

# %% [markdown]
# ## A network
#
# `body` makes features of normalised images, `head` makes logits of features.


# %%
class Reader(Classifier):
    """Two convolutions and a linear layer."""

    def __init__(self, image_shape, num_classes, width=16):
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * 2 * width, num_classes)


# %% [markdown]
# ## Run it
#
# A schedule, an algorithm, and what Lightning's Trainer should be told. Everything else has defaults.

# %%
schedule = mosaic.Schedule(collaborative_rounds=5, local_steps=20, fine_tune_rounds=2)
runs = {}
for name, algorithm in {"FedAvg": FedAvg(), "Mosaic": Mosaic()}.items():
    federation = mosaic.Federation(run_dir=str(folder / name), schedule=schedule)
    runs[name] = federation.fit(
        net=partial(Reader, width=24), data=data, algorithm=algorithm, trainer={"accelerator": "cpu"}
    )
runs

# %%
runs["Mosaic"].plot.partition()

# %%
runs["Mosaic"].plot.accuracy()

# %%
runs["Mosaic"].plot.samples(client=1)

# %% [markdown]
# One seed and few rounds: the figures say that it works, not how much it helps. `fair_comparison` has how to find that
# out.
#
# ## The model in use
#
# It takes pixels in [0, 1].

# %%
image, label = test[7]
probabilities = runs["Mosaic"].model(to_tensor(image)[None]).softmax(-1)[0]
print(f"a {label}, read as {int(probabilities.argmax())} with probability {float(probabilities.max()):.2f}")

# %% [markdown]
# A run made of objects lies in a folder like any other, and goes on after a kill with `fit(..., ckpt_path="auto")`.
# `mosaic.load` reads it again; since its `config.yaml` only describes the objects, it is told the network.

# %%
mosaic.load(folder / "Mosaic", net=partial(Reader, width=24))
