"""``mosaic.fit``: what ``mosaic fit`` does, from Python."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mosaic.api.arguments import Config, config_files, fit_arguments
from mosaic.api.raising import raising, refuse_in_children
from mosaic.api.run import Run
from mosaic.cli.main import run_lightning


def fit(
    config: Config | Sequence[Config], overrides: Mapping[str, Any] | None = None, ckpt_path: str | Path | None = None
) -> Run:
    """Run the federation that a configuration describes, as ``mosaic fit`` does, and return its run.

    Same configuration, same numbers, same folder as from the command line. A dry run keeps nothing, and its run has
    nothing to read.

    Args:
        config: path of a YAML file, or its content as plain values; a list of these is stacked, later ones on top.
        overrides: flags of the command line by key: ``{"seed_everything": 1}`` is ``--seed_everything 1``.
        ckpt_path: ``auto`` goes on with the run of this name if there is one, ``last`` needs one; or the path of a run
            or of a snapshot.

    Raises:
        MosaicError: the request is at fault, in the line that the command would print.
        KeyboardInterrupt: after Ctrl-C; the last finished round is in a snapshot.
    """
    refuse_in_children()
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # or it would say which seed was set
    with raising(), config_files(config) as files:
        arguments = fit_arguments(files, overrides, ckpt_path)
        folder = run_lightning(arguments)
    assert folder is not None, "fit has a folder"
    return Run(folder)
