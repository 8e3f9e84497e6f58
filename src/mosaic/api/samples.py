"""Images of clients' generators, drawn from the last snapshot of a run."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mosaic.errors import MosaicError, require_whole
from mosaic.generation.base import Generation
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.runs.directory import RunDirectory
from mosaic.runs.snapshots import Snapshot, list_snapshots
from mosaic.server.generators import GeneratorMixture, uploaded_generator


class Samples(NamedTuple):
    """Generated images.

    Attributes:
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        labels: shape ``(B,)``.
    """

    images: Tensor
    labels: Tensor


@torch.no_grad()
def draw_samples(
    run: Path, generation: Generation, shape: ImageShape, model: Classifier, client: int, count: int, seed: int
) -> Samples:
    """Draw images of a client's generator, sorted by label; see :meth:`mosaic.Run.sample`.

    ``generation`` says how generators were learnt; ``model`` says what images are of, where a generator heeds no
    labels.

    Raises:
        MosaicError: the run has no generator of this client, or a number is out of range.
    """
    require_whole("sample", client=client, count=count, seed=seed)
    client, count, seed = int(client), int(count), int(seed)  # or numpy's
    if count < 1:
        raise MosaicError(f"count: expected a number of images from 1 on, got {count!r}")
    if not 0 <= seed < 2**63:
        raise MosaicError(f"seed: expected a whole number from 0 on, got {seed!r}")
    snapshots = list_snapshots(RunDirectory(run).rounds)
    uploads = Snapshot.read(snapshots[-1]).server.generators if snapshots else ()
    clients = [upload.client for upload in uploads]
    if client not in clients:
        known = f"one of {', '.join(map(str, clients))}" if clients else "a run in which clients send generators"
        raise MosaicError(f"client: expected {known}, got {client!r}: {run} has no generator of it")
    build = partial(uploaded_generator, generation=generation, image_shape=shape)
    mixture = GeneratorMixture(uploads, build, torch.device("cpu"))
    images, _, labels = mixture.draw_from(clients.index(client), count, torch.Generator().manual_seed(seed))
    if mixture.conditional:
        return Samples(images, labels)
    guesses, order = model(images).argmax(-1).sort(stable=True)
    return Samples(images[order], guesses)
