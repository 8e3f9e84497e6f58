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
# # Comparing methods fairly
#
# A comparison misleads where one method has more steps, a better learning rate, or a luckier split. `mosaic.compare` holds
# all of that equal: same clients, seeds, network, rounds and local steps; server-side updates from one budget; and, if
# asked, each method at the rate that suits it, chosen by the clients' validation images and never by the test split.

# %%
import tempfile
from pathlib import Path

import mosaic

configs = next(folder for folder in (Path("configs"), Path("../configs")) if folder.is_dir())
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two seeds, three methods
#
# Files and values after the first are common to all methods: here a short schedule, so that this page is made in half
# a minute. `config` is the algorithm of the configuration itself, which is Mosaic with settings for digits.

# %%
short = {"federation": {"schedule": {"collaborative_rounds": 4, "local_steps": 10, "fine_tune_rounds": 1}}}
comparison = mosaic.compare(
    [configs / "digits.yaml", short],
    ["config", "fedavg", "prototype_head"],
    seeds=[0, 1],
    output=folder / "compared",
    tune="federation.schedule.learning_rate=0.1,0.03",
)

# %%
comparison.table.iloc[:, :6]

# %%
comparison.runs

# %% [markdown]
# ## Against rounds, against traffic
#
# Which method is better depends on what is scarce. Generators and prototypes are uploads too.

# %%
comparison.plot.rounds()

# %%
comparison.plot.traffic()

# %% [markdown]
# ## What else belongs to a fair word
#
# * **Time.** Distillation takes time in which FedAvg runs more rounds. `seconds` is a column; `docs/results.md` gives FedAvg
#   as many rounds as fit.
# * **Controls.** `prototype_head` has no experts and no generators. A mixture must beat it.
# * **Seeds.** Two are for a notebook. The spread of the table is over seeds, and claims of a few points need more of them.
# * **Refusals.** A student that the clients refuse leaves the average; a note under the table counts these.
# * **Test data** decides nothing: neither rates, nor rounds, nor which student is taken.
