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
# This notebook runs the whole method on two CPU cores, in about two minutes, and looks at every step. The same run from
# a shell is `mosaic fit --config configs/digits.yaml`.

# %%
import csv
import json
import tempfile
from pathlib import Path

import torch
import yaml
from IPython.display import Image, display
from jsonargparse import ArgumentParser

from mosaic.cli.main import main
from mosaic.generation import Generation
from mosaic.runs import figures
from mosaic.runs.snapshots import Snapshot, list_snapshots

config = Path("../configs/digits.yaml") if Path("../configs").is_dir() else Path("configs/digits.yaml")
run = Path(tempfile.mkdtemp()) / "digits"

# %% [markdown]
# ## One configuration, one run
#
# A configuration names classes and their arguments. Whatever it says can be changed by a flag, or by a second file
# stacked on top.

# %%
print(config.read_text())

# %%
main(["fit", "--config", str(config), "--federation.run_dir", str(run)])

# %% [markdown]
# ## Who holds what
#
# The split is drawn from a Dirichlet distribution with concentration 0.05: strong label skew. Averaging models that have
# seen different digits costs accuracy, because each of them has unlearnt what it did not see.

# %%
display(Image(str(run / "partition.png")))

# %% [markdown]
# ## What the generators learnt
#
# Each client trains a small generator of its own images and uploads it once. It is told which digit to draw, so a client
# can only draw what it holds. Beside model weights and counts, the generators and a few cluster centres of features are
# all that the server gets to know of the images.

# %%
settings = yaml.safe_load((run / "config.yaml").read_text())["algorithm"]["init_args"]["generation"]
parser = ArgumentParser()
parser.add_argument("--generation", type=Generation)
generation = parser.instantiate_classes(parser.parse_object({"generation": settings})).generation
snapshot = Snapshot.read(list_snapshots(run / "rounds")[-1])
random = torch.Generator().manual_seed(0)
rows, titles = [], []
for upload in snapshot.server.generators:
    generator = generation.build((1, 8, 8), upload.class_counts)
    generator.load_state_dict(upload.generator)
    generator.eval()
    labels = torch.multinomial(upload.class_counts.double(), 10, replacement=True, generator=random).sort().values
    with torch.no_grad():
        rows.append(generator(torch.randn(10, generator.latent_dim, generator=random), labels))
    held = ", ".join(str(digit) for digit in upload.class_counts.nonzero().flatten().tolist())
    titles.append(f"client {upload.client}, holds {held}")
display(figures.sample_grid(torch.cat(rows).numpy(), titles))

# %% [markdown]
# ## Which step is worth how much
#
# The teacher joins the clients' models: each counts where it knows something. The student learns from the teacher on
# generated images, starting from the averaged model, and is then fine-tuned by the clients. It can end above its teacher
# because the origin of an image is information too: the server knows which digit a generator was asked for.

# %%
summary = json.loads((run / "summary.json").read_text())
for stage, accuracy in summary["stages"].items():
    print(f"{stage:28} {100 * accuracy:6.2f} %")
print(f"{'after fine-tuning':28} {100 * summary['test_accuracy']:6.2f} %")

# %%
with (run / "metrics.csv").open() as file:
    table = list(csv.DictReader(file))
for row in table:
    bar = "#" * round(40 * float(row["test_accuracy"]))
    mark = "  <- distilled" if row["distils"] == "True" else ""
    print(f"round {int(row['round']):2}  {100 * float(row['test_accuracy']):6.2f} %  {bar}{mark}")

# %% [markdown]
# ## Where to go on
#
# * `tensorboard --logdir` on the run's folder shows the same and more: losses of every generator, the gate and the
#   student, sample grids, confusion matrix, bytes and seconds.
# * `--config configs/algorithms/fedavg.yaml`, stacked on top, runs federated averaging on the same split.
# * `--data.partition.alpha 1` makes the clients more alike; Mosaic then has less to mend.
