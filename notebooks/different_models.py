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
# # Clients with different models
#
# Not every client can run the whole network. Some have a phone, some have a network that they will not give up. Mosaic
# joins them all the same: whatever answers with logits can be an expert, and the student is one network again.

# %%
import tempfile
from pathlib import Path

import pandas as pd

import mosaic

configs = next(folder for folder in (Path("configs"), Path("../configs")) if folder.is_dir())
folder = Path(tempfile.mkdtemp())
short = {"federation.schedule.collaborative_rounds": 4, "federation.schedule.fine_tune_rounds": 1}


def fit(name, *files, **more):
    """Run on digits."""
    return mosaic.fit([configs / "digits.yaml", *files], {**short, **more, "federation.run_dir": folder / name})


def accuracy(name, *files, **more):
    """Run on digits, and return the test accuracy of the global model in per cent."""
    return round(100 * fit(name, *files, **more).summary["test_accuracy"], 2)


# %% [markdown]
# ## Parts of one network
#
# With `clients.levels`, client 0 runs all channels, client 1 half of them, client 2 a quarter, client 3 all again. The
# server cuts these sub-models out of the global network and puts what comes back together, coordinate by coordinate.
# With FedAvg that is FedRolex, whose window of channels moves from round to round. Clients that train a part can still
# *run* the whole network, so they judge it and send prototypes in its features like all others.

# %%
fedavg = configs / "algorithms" / "fedavg.yaml"
levels = {"clients.levels": [1.0, 0.5, 0.25]}
results = {
    "FedRolex, all to a quarter of the channels": accuracy("rolex", fedavg, **levels),
    "Mosaic, all to a quarter of the channels": accuracy("levels", **levels),
}

# %% [markdown]
# ## Networks of their own
#
# With `clients.models` a client keeps an architecture of its own. Its tensors have no average with those of others, so
# averaging methods refuse. Under Mosaic it becomes an expert.

# %%
own = {"clients": {"models": [
    "global",
    {"class_path": "mosaic.nets.MLP", "init_args": {"width": 64}},
    {"class_path": "mosaic.nets.SmallCNN", "init_args": {"width": 8}},
]}}  # fmt: skip
runs = {"alone": fit("own", own)}
results["Mosaic, three architectures"] = round(100 * runs["alone"].summary["test_accuracy"], 2)

# %%
try:
    accuracy("refused", fedavg, own)
except mosaic.MosaicError as error:
    print(error)

# %% [markdown]
# What do these clients have of it? They can run the global model. If they want to keep their own, it can learn too: from
# generated images of all classes among their own (`replay`, which shows these to all clients), and from the global model,
# on the server (`teach_back`). The figures are the clients' own models on test images of *all* classes, of which most
# clients have seen two or three.

# %%
overlays = [configs / "algorithms" / f"{name}.yaml" for name in ("replay", "teach_back")]
runs["with replay"] = fit("replay", own, overlays[0])
runs["with replay and teach_back"] = fit("taught", own, *overlays)
pd.Series({name: round(100 * run.summary["own_test_accuracy"], 2) for name, run in runs.items()}, name="own models, %")

# %%
runs["with replay and teach_back"].client_model(1)  # client 1's own network, as it is after the run

# %% [markdown]
# ## All the same, for comparison

# %%
results["FedAvg, one network"] = accuracy("fedavg", fedavg)
results["Mosaic, one network"] = accuracy("mosaic")
pd.Series(results, name="test accuracy, %").to_frame()

# %% [markdown]
# Five rounds and one seed: averages of sub-models need many more rounds, since each coordinate is trained by some of the
# clients only. `docs/clients.md` has longer runs and three seeds.
