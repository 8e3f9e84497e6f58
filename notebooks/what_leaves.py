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
# # What leaves a client
#
# No image does. What is learnt from images does: weights, a generator, cluster centres, counts. This notebook looks at
# what is sent, how much it is, and what an honest but curious server could learn from it. Six clients share 400 digits.

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

import mosaic
from mosaic.cli.main import main

configs = next(folder for folder in (Path("configs"), Path("../configs")) if folder.is_dir())
few = {"data": {"source": {"class_path": "mosaic.data.PartSource", "init_args": {
    "source": "mosaic.data.SklearnDigits", "train": 400}}, "partition": {"init_args": {"num_clients": 6}}}}  # fmt: skip
short = {"federation.schedule.collaborative_rounds": 4, "federation.schedule.fine_tune_rounds": 0}
folder = Path(tempfile.mkdtemp()) / "digits"
run = mosaic.fit([configs / "digits.yaml", few], {**short, "federation.run_dir": folder})
run

# %% [markdown]
# ## How much
#
# Bytes of all rounds, by message. A generator is sent once, prototypes two or three times: for
# the teacher, for the student's new head, and for that of the last model.

# %%
pd.DataFrame({way: run.summary[way] for way in ("bytes_up", "bytes_down")}).map(lambda size: f"{size / 2**10:,.0f} KiB")

# %% [markdown]
# ## Generated images beside real ones
#
# For each image that a client's generator draws, the nearest of its own training images. A generator that repeats what it
# has seen would show the same picture twice. Only a simulation can draw this: the server of a real federation has no
# real images to compare with.

# %%
partition = json.loads((run.path / "partition.json").read_text())
source = mosaic.data.PartSource(mosaic.data.SklearnDigits(), train=400).load().train
held = [torch.tensor(client["train"]) for client in partition["clients"]]
learnt_from = {each["client"]: each["images"] for each in run.summary["generators"]}
small, large = min(learnt_from, key=learnt_from.get), max(learnt_from, key=learnt_from.get)


def beside_nearest(client, count=8):
    """Draw generated images above the nearest real ones of the same client."""
    drawn, _ = run.sample(client, count)
    own = source.at(held[client]).pixels.float() / 255
    nearest = torch.cdist(drawn.flatten(1), own.flatten(1)).argmin(1)
    figure, rows = plt.subplots(2, count, figsize=(count, 2.3))
    for row, images in zip(rows, (drawn, own[nearest]), strict=True):
        for place, image in zip(row, images, strict=True):
            place.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
    rows[0][0].set_ylabel("drawn")
    rows[1][0].set_ylabel("nearest")
    figure.suptitle(f"client {client}: its generator has learnt from {learnt_from[client]} images")


beside_nearest(large)

# %% [markdown]
# A client with fewer than eight images of every class sends no generator at all. This one has a few more:

# %%
beside_nearest(small)

# %% [markdown]
# ## Attacks
#
# Likeness to the eye is no evidence. `mosaic audit` runs the rounds once more and attacks every upload: which images has
# this client trained on? It tells the area under the ROC curve, where 0.5 is chance, and beside it the *null*: the same
# attack where there is nothing to find. From a shell it is `mosaic audit runs/NAME`.

# %%
main(["audit", str(run.path)])

# %% [markdown]
# `audit.json` has the same as plain values.

# %%
findings = pd.DataFrame(json.loads((run.path / "audit.json").read_text())["findings"])
findings[["client", "attack", "members", "others", "auc", "null_auc"]].round(2).head(8)

# %% [markdown]
# Small clients are told apart more easily than large ones, and their nulls scatter more: read a figure only beside its
# null. An attack that finds nothing proves nothing about one that nobody has thought of. `docs/privacy.md` has who could
# see what, how to send less, and what a privacy budget buys.
