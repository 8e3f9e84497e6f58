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
# # Mosaic in ten minutes
#
# Ten clients hold handwritten digits. None of them may show an image to anybody, and most of them have seen only two or
# three of the ten digits. Together they want one model that reads them all.
#
# This notebook runs the whole method on one CPU core, in less than a minute, and looks at every step. The same run from a
# shell is `mosaic fit --config configs/digits.yaml`.

# %%
import tempfile
from pathlib import Path

import pandas as pd

import mosaic

configs = next(folder for folder in (Path("configs"), Path("../configs")) if folder.is_dir())
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One configuration, one run
#
# A configuration names classes and their arguments. Whatever it says can be changed, by a second file stacked on top or
# by a key, as `federation.run_dir` is here.

# %%
print((configs / "digits.yaml").read_text())

# %%
run = mosaic.fit(configs / "digits.yaml", {"federation.run_dir": folder / "digits"})
run

# %% [markdown]
# ## Who holds what
#
# The split is drawn from a Dirichlet distribution with concentration 0.05: strong label skew. Averaging models that have
# seen different digits costs accuracy, because each of them has unlearnt what it did not see.

# %%
run.plot.partition()

# %% [markdown]
# ## What the generators learnt
#
# Each client learns a generator of its own images and uploads it once. A generator is told which digit to draw, and is
# asked only for digits that its client holds. Beside model weights, counts and measurements, the generators and cluster centres of features
# are all that the server gets to know of the images.

# %%
run.plot.samples(client=4)

# %% [markdown]
# ## Which step is worth how much
#
# The teacher joins the clients' models: each counts where it knows something. The student learns from the teacher on
# generated images, starting from the averaged model, and is then fine-tuned by the clients. It can end above its teacher
# because the origin of an image is information too: the server knows which digit a generator was asked for.

# %%
stages = {**run.summary["stages"], "after fine-tuning": run.summary["test_accuracy"]}
pd.Series(stages, name="test accuracy, %").mul(100).round(2).to_frame()

# %%
run.metrics[["round", "distils", "student_accepted", "test_accuracy", "validation_accuracy"]]

# %%
run.plot.accuracy()

# %% [markdown]
# ## What it still confuses

# %%
run.plot.confusion()

# %% [markdown]
# ## The model
#
# Normalisation is part of the network: it takes pixels in [0, 1].

# %%
images, labels = run.sample(client=0, count=8)
print("asked for:", labels.tolist())
print("read as:  ", run.model(images).argmax(-1).tolist())

# %% [markdown]
# ## Where to go on
#
# * `run.report()` writes one HTML page about a run; `tensorboard --logdir` on its folder shows the same and more while it
#   goes on.
# * `mosaic.fit([configs / "digits.yaml", configs / "algorithms/fedavg.yaml"])` runs federated averaging on the same split.
# * `{"data.partition.alpha": 1}` makes the clients more alike; Mosaic then has less to fix.
