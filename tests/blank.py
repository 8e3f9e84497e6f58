"""Figures that come out blank: drawing takes half of a tiny run."""

from mosaic.runs.figures import Picture, bands, confusion_matrix, heat_map, partition_heat_map
from mosaic.runs.sample_figure import class_samples

FIGURES = {
    "mosaic.federation.federation.partition_heat_map": partition_heat_map,
    "mosaic.federation.results_writer.partition_heat_map": partition_heat_map,
    "mosaic.cli.partition.partition_heat_map": partition_heat_map,
    "mosaic.federation.results_writer.confusion_matrix": confusion_matrix,
    "mosaic.runs.figures.heat_map": heat_map,
    "mosaic.runs.tracking.class_samples": class_samples,
    "mosaic.comparison.writing.bands": bands,
}
"""Where figures are asked for, and what makes them."""


class BlankFigure(Picture):
    """A figure on which nothing is drawn."""

    def draw(self, renderer: object) -> None:
        """Draw nothing."""


def blank(*_: object, **__: object) -> BlankFigure:
    """Make a blank figure in place of any other."""
    return BlankFigure(figsize=(1, 1), dpi=10)
