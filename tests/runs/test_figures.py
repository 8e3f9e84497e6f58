import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mosaic.runs.figures import Band, bands, confusion_matrix, heat_map, partition_heat_map
from tests.cases import for_each

pytestmark = pytest.mark.usefixtures("drawn")


def counts(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 90, (rows, columns))


def picture(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def numbers(figure: Figure) -> dict[tuple[int, int], str]:
    """Texts by row and column."""
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in figure.axes[0].texts}


def ticks(axis: object) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]  # type: ignore[attr-defined]


def names(number: int, length: int = 1) -> list[str]:
    return [f"{i:0{length}d}" for i in range(number)]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (1, 1),
        (2, 10),
        pytest.param(10, 10, marks=pytest.mark.slow),
        pytest.param(30, 30, marks=pytest.mark.slow),
        (31, 31),
        pytest.param(100, 10, marks=pytest.mark.slow),
        (500, 100),
    ],
)
@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 25])
def test_federations_of_any_size_can_be_drawn(rows: int, columns: int, length: int) -> None:
    figure = partition_heat_map(counts(rows, columns), names(columns, length))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    width, height = figure.get_size_inches()
    assert 3 < height < 20
    assert 4 < width < 20


def test_the_partition_is_drawn_as_it_is_clients_downwards() -> None:
    held = counts(4, 3)
    figure = partition_heat_map(held, ["ant", "bee", "cat"])
    axes = figure.axes[0]
    assert np.array_equal(picture(figure), held)
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("client", "class")
    assert ticks(axes.xaxis) == ["ant", "bee", "cat"]
    assert ticks(axes.yaxis) == ["0", "1", "2", "3"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_numbers_stand_where_something_is_held() -> None:
    figure = partition_heat_map(np.array([[0, 7], [12, 0]]), ["a", "b"])
    assert numbers(figure) == {(0, 1): "7", (1, 0): "12"}


def test_numbers_can_be_read_on_their_ground() -> None:
    figure = partition_heat_map(np.array([[1, 100]]), ["a", "b"])
    pale, dark = figure.axes[0].texts
    assert pale.get_color() != "white"
    assert dark.get_color() == "white"


def test_large_matrices_are_drawn_without_numbers_and_names() -> None:
    figure = partition_heat_map(counts(21, 100), names(100))
    assert numbers(figure) == {}
    assert len(ticks(figure.axes[0].xaxis)) < 30


def test_rows_of_tall_matrices_share_lines_and_none_is_left_out() -> None:
    held = np.arange(2 * 1001).reshape(1001, 2)
    figure = partition_heat_map(held, ["a", "b"])
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert drawn.shape == (334, 2)
    assert drawn[0].tolist() == held[:3].mean(0).tolist()
    assert drawn[-1].tolist() == held[-2:].mean(0).tolist()
    assert figure.axes[0].get_ylabel() == "client (each line the mean of 3)"
    assert figure.axes[0].get_ylim() == (1000.5, -0.5)


def test_nothing_held_is_drawn_pale() -> None:
    figure = partition_heat_map(np.zeros((3, 3), dtype=int), names(3))
    figure.savefig(io.BytesIO())
    assert numbers(figure) == {}
    image = figure.axes[0].images[0]
    assert min(image.to_rgba(image.get_array())[0, 0, :3]) > 0.9


def test_a_confusion_matrix_shows_shares_of_each_true_class() -> None:
    figure = confusion_matrix(np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]]), ["ant", "bee", "cat"])
    assert picture(figure).tolist() == [[0.8, 0.2, 0], [0.25, 0.75, 0], [0, 0, 0]]
    assert numbers(figure) == {(0, 0): ".80", (0, 1): ".20", (1, 0): ".25", (1, 1): ".75"}
    axes = figure.axes[0]
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == ["ant", "bee", "cat"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "guess")


def test_a_perfect_classifier_is_a_diagonal_of_ones() -> None:
    figure = confusion_matrix(np.diag([5, 9]), ["a", "b"])
    assert numbers(figure) == {(0, 0): "1.00", (1, 1): "1.00"}


def test_shares_that_would_be_written_as_zero_are_left_out() -> None:
    figure = heat_map(np.array([[0.004, 0.006]]), rows="row", columns="column")
    assert numbers(figure) == {(0, 1): ".01"}


def test_colours_start_at_zero_so_that_pictures_can_be_compared() -> None:
    figure = heat_map(np.array([[5.0, 6.0]]), rows="expert", columns="class", title="Weights")
    assert figure.axes[0].images[0].get_clim() == (0, 6)
    assert figure.axes[0].get_title(loc="left") == "Weights"
    assert ticks(figure.axes[0].xaxis) == ["0", "1"]


def test_figures_belong_to_their_caller_and_not_to_pyplot() -> None:
    before = plt.get_fignums()
    partition_heat_map(counts(2, 2), names(2))
    assert plt.get_fignums() == before


@pytest.mark.parametrize("rounds", [1, 2, 13])
def test_rounds_are_counted_in_whole_numbers_and_traffic_is_not(rounds: int) -> None:
    places = np.arange(1.0, rounds + 1)
    for scale, whole in ((1.0, True), (0.1, False)):
        figure = bands({"one": Band(scale * places, places, np.zeros(rounds))}, "", "%")
        ticks = np.array(figure.axes[0].get_xticks())
        assert np.array_equal(ticks, np.round(ticks)) == whole


def test_the_input_is_left_alone() -> None:
    held = counts(3, 3)
    before = held.copy()
    confusion_matrix(held, names(3))
    partition_heat_map(held, names(3))
    assert np.array_equal(held, before)


@for_each(("rounds", "distance"), [(1, 20.0), (1, 0.0), (2, 20.0), (13, 20.0)])
def test_every_curve_can_be_seen_however_few_its_rounds(rounds: int, distance: float) -> None:
    """A line of one point has no length, and neither has its band; equals would hide each other."""
    places = np.arange(1.0, rounds + 1)
    drawn_bands = {str(n): Band(places, distance * n + places, np.full(rounds, 2.0)) for n in range(4)}
    figure = bands(drawn_bands, "round", "%")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, drawn = figure.axes[0].get_window_extent(), np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    inside = drawn[:, int(box.x0) : int(box.x1)]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list("0123")
    for color in ("#0072b2", "#d55e00", "#009e73", "#cc79a7"):
        wanted = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
        assert (np.abs(inside - wanted).max(2) < 20).sum() > 20


def test_names_are_text_and_no_formulas() -> None:
    given = ["$a_$", "$10-$20", ">$20"]
    for drawn in (partition_heat_map(counts(3, 3), given), confusion_matrix(counts(3, 3), given)):
        drawn.canvas.draw()
        assert ticks(drawn.axes[0].xaxis) == given
    curve = Band(np.arange(3.0), np.ones(3), np.zeros(3))
    drawn = bands(dict.fromkeys(given, curve), "round", "accuracy, %")
    drawn.canvas.draw()
    assert not any(text.get_parse_math() for text in drawn.axes[0].get_legend().get_texts())


def test_long_names_leave_room_and_letters_without_a_font_are_boxes() -> None:
    given = ["Abdominal aortic aneurysm (ruptured), stage IV", "\u65e5\u672c"]
    figure = confusion_matrix(np.eye(2, dtype=int), given)
    FigureCanvasAgg(figure).draw()  # a warning would be an error
    assert ticks(figure.axes[0].yaxis) == ["Abdominal aortic \u2026", given[1]]
    assert figure.axes[0].get_position().height > 0.4


def test_no_accuracy_beyond_all_is_drawn() -> None:
    curve = Band(np.array([1.0, 2.0]), np.array([90.0, 100.0]), np.array([5.0, 5.0]))
    assert bands({"a": curve}, "round", "accuracy, %").axes[0].get_ylim()[1] <= 101
