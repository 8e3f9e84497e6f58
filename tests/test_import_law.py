"""The import law of the package, read from its source, and proof that each of its clauses can fail."""

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import mosaic
from tests.cases import for_each

Graph = Mapping[str, set[str]]
"""Each module's direct imports inside the package."""

RELAY = "mosaic.relay"
LOWER = (
    *("mosaic.codec", "mosaic.errors", "mosaic.messages", "mosaic.losses.priors", "mosaic.seeding", "mosaic.batches"),
    *("mosaic.training.instantiation", "mosaic.training.silence", "mosaic.training.tuning", "mosaic.training.dry_run"),
    *("mosaic.transfer", "mosaic.ranks", "mosaic.finite"),
)
UPPER = ("mosaic.cli", "mosaic.comparison", "mosaic.federation", "mosaic.executors", "mosaic.report")
NEVER_REACHES: dict[str, tuple[str, ...]] = {
    "mosaic.teachers": (
        "mosaic.data",
        "mosaic.client.worker",
        "mosaic.client.local_training",
        "mosaic.client.generator_learning",
        "mosaic.algorithms",
        *UPPER,
    ),
    "mosaic.server": (
        "mosaic.teachers",
        "mosaic.data",
        "mosaic.client.worker",
        "mosaic.client.local_training",
        "mosaic.client.generator_learning",
        "mosaic.algorithms",
        *UPPER,
    ),
    "mosaic.algorithms": ("mosaic.data", "mosaic.client.worker", *UPPER),
    "mosaic.client.objectives": ("mosaic.data", "mosaic.server", "mosaic.algorithms", *UPPER),
    "mosaic.client.prototypes": ("mosaic.data", "mosaic.server", "mosaic.algorithms", *UPPER),
    "mosaic.client.generator_quality": ("mosaic.data", "mosaic.server", "mosaic.algorithms", *UPPER),
    "mosaic.client.program": ("mosaic.data", "mosaic.server", "mosaic.algorithms", *UPPER),
    "mosaic.client.worker": ("mosaic.server", "mosaic.algorithms", *UPPER),
    "mosaic.client.private_worker": ("mosaic.server", "mosaic.algorithms", *UPPER),
    "mosaic.tasks": (
        *("mosaic.data", "mosaic.server", "mosaic.client", "mosaic.algorithms", "mosaic.generation", "mosaic.runs"),
        *UPPER,
    ),
    "mosaic.generation": ("mosaic.data", "mosaic.server", "mosaic.client", "mosaic.algorithms", *UPPER),
    "mosaic.data": (
        "mosaic.server",
        "mosaic.client",
        "mosaic.algorithms",
        "mosaic.tasks",
        "mosaic.training.phases",
        *UPPER,
    ),
    "mosaic.comparison": ("mosaic.cli",),
    "mosaic.cli": ("mosaic.api",),
    "mosaic.report": ("mosaic.cli", "mosaic.comparison", "mosaic.audit.attacks", "mosaic.audit.client"),
    "mosaic.federation": ("mosaic.cli", "mosaic.comparison", "mosaic.report"),
    "mosaic.executors": (
        "mosaic.cli",
        "mosaic.comparison",
        "mosaic.report",
        "mosaic.federation",
        "mosaic.runs",
        "mosaic.server",
        "mosaic.algorithms",
    ),
    "mosaic.runs": ("mosaic.algorithms", *UPPER),
}
REACHES_ONLY: dict[str, tuple[str, ...]] = {
    "mosaic.losses": ("mosaic.losses",),
    "mosaic.nets": ("mosaic.nets", "mosaic.transfer", "mosaic.errors"),
    "mosaic.training": (*("mosaic.training", "mosaic.ranks", "mosaic.transfer", "mosaic.errors"),),
    "mosaic.runs.figures": ("mosaic.runs.figures",),
    "mosaic.privacy": (
        *("mosaic.privacy", "mosaic.nets", "mosaic.transfer", "mosaic.errors"),
        *("mosaic.messages", "mosaic.codec", "mosaic.disk", "mosaic.finite"),
    ),
    "mosaic.messages": ("mosaic.messages", "mosaic.codec"),
    "mosaic.model_pool": (
        *("mosaic.model_pool", "mosaic.nets", "mosaic.transfer"),
        *("mosaic.messages", "mosaic.codec", "mosaic.errors", "mosaic.seeding", "mosaic.finite"),
    ),
    "mosaic.batches": ("mosaic.batches", "mosaic.ranks", "mosaic.transfer"),
    **{module: (module,) for module in LOWER if module not in ("mosaic.messages", "mosaic.batches")},
}

IMPORTED_ONLY_BY: dict[str, tuple[str, ...]] = {
    "mosaic.model_pool": (
        "mosaic.server",
        "mosaic.client",
        "mosaic.algorithms",
        "mosaic.teachers",
        "mosaic.federation",
        "mosaic.cli.sections",
        "mosaic.audit",
        "mosaic.api",
    ),
}


def below(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def read_package() -> dict[str, str]:
    """Source of every module by its dotted name; a package goes by the name of its directory."""
    root = Path(mosaic.__file__).parent
    sources = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


def imported(source: str, package: str = "") -> Iterator[str]:
    """Every dotted name that an import statement could mean, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or package == RELAY, "only the folder that is copied elsewhere imports relatively"
            module = f"{package}.{node.module}" if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def with_parents(name: str) -> Iterator[str]:
    """Importing a.b.c runs a and a.b too."""
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))


def graph_of(sources: Mapping[str, str]) -> Graph:
    """The root package is left out: it imports nothing until it is asked, and everything runs it."""
    return {
        module: {
            part
            for name in imported(source, module.rpartition(".")[0])
            for part in with_parents(name)
            if part in sources
        }
        - {"mosaic"}
        for module, source in {**sources, "mosaic": ""}.items()
    }


def reachable(graph: Graph, start: str) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        fresh = graph[waiting.pop()] - found
        found |= fresh
        waiting += fresh
    return found


def violations(graph: Graph) -> set[tuple[str, str]]:
    """Pairs of a module and what it reaches against the law."""
    broken = set()
    for module in graph:
        reached = reachable(graph, module)
        for place, forbidden in NEVER_REACHES.items():
            if below(module, (place,)):
                broken |= {(module, other) for other in reached if below(other, forbidden)}
        for place, allowed in REACHES_ONLY.items():
            if below(module, (place,)):
                broken |= {(module, other) for other in reached if not below(other, allowed)}
        broken |= {
            (module, place)
            for place, importers in IMPORTED_ONLY_BY.items()
            if place in graph[module] and not below(module, importers)
        }
    return broken


def mentions_sys_path(source: str) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "path" and ast.unparse(node.value) == "sys")
        or (isinstance(node, ast.ImportFrom) and node.module == "sys" and any(a.name == "path" for a in node.names))
        for node in ast.walk(ast.parse(source))
    )


def imports_ray(source: str) -> bool:
    return any(below(name, ("ray",)) for name in imported(source, RELAY))


def imports_flower(source: str) -> bool:
    return any(below(name, ("flwr",)) for name in imported(source, RELAY))


def tunes(source: str) -> bool:
    return any(below(name, ("gc", "ctypes")) for name in imported(source, RELAY))


def prints(source: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(ast.parse(source)))


PACKAGE = read_package()
GRAPH = graph_of(PACKAGE)


def test_the_package_keeps_the_import_law() -> None:
    assert violations(GRAPH) == set()


def test_the_law_speaks_about_modules_that_exist() -> None:
    laws = (NEVER_REACHES, REACHES_ONLY, IMPORTED_ONLY_BY)
    named = {name for law in laws for place, others in law.items() for name in (place, *others)}
    assert named <= PACKAGE.keys()


def test_the_graph_sees_what_is_plainly_there() -> None:
    assert {"mosaic.codec"} == GRAPH["mosaic.messages"]
    assert "mosaic.data.module" in reachable(GRAPH, "mosaic.cli.main")
    assert "mosaic.data.module" in reachable(GRAPH, "mosaic.client.worker")
    assert {"mosaic.nets", "mosaic.nets.blueprint", "mosaic.messages"} <= GRAPH["mosaic.model_pool"]
    assert "mosaic.model_pool" in GRAPH["mosaic.client.worker"] & GRAPH["mosaic.server.cohort"]


def test_a_students_view_does_not_lead_to_data() -> None:
    reached = reachable(GRAPH, "mosaic.tasks.distillation")
    assert "mosaic.nets.augmentation" in reached
    assert not any(below(module, ("mosaic.data",)) for module in reached)


def test_only_the_worker_and_its_training_inside_client_reach_data() -> None:
    readers = {module for module in GRAPH if below(module, ("mosaic.client",))}
    assert {m for m in readers if "mosaic.data" in reachable(GRAPH, m)} == {
        "mosaic.client.worker",
        "mosaic.client.private_worker",
        "mosaic.client.local_training",
        "mosaic.client.generator_learning",
    }


def offenders(offends: Callable[[str], bool], *but: str) -> list[str]:
    """Modules whose source offends, all but those that may."""
    return sorted(module for module in PACKAGE.keys() - set(but) if offends(PACKAGE[module]))


def test_no_module_touches_the_search_path() -> None:
    assert offenders(mentions_sys_path) == []


def test_no_other_module_imports_ray() -> None:
    assert offenders(imports_ray, "mosaic.executors.ray.executor") == []


def test_no_other_module_imports_flower() -> None:
    assert offenders(imports_flower, "mosaic.relay.apps") == []
    assert imports_flower(PACKAGE["mosaic.relay.apps"])
    assert not imports_flower("from flwr_datasets import x")


def test_the_relay_imports_nothing_of_mosaic_but_itself() -> None:
    assert GRAPH["mosaic.relay.apps"] == {RELAY, f"{RELAY}.frames"}
    assert GRAPH["mosaic.relay.frames"] == set()


def test_no_other_module_reaches_the_collector_or_the_c_library() -> None:
    assert offenders(tunes, "mosaic.training.tuning") == []
    assert tunes(PACKAGE["mosaic.training.tuning"])


def test_no_other_module_prints() -> None:
    assert offenders(prints, "mosaic.cli.main", "mosaic.cli.lightning") == []


FAKE = {
    "mosaic": "",
    "mosaic.data": "from mosaic.data.module import Data",
    "mosaic.data.module": "",
    "mosaic.seeding": "",
    "mosaic.client": "",
    "mosaic.client.worker": "import mosaic.data.module",
    "mosaic.server": "",
    "mosaic.server.cohort": "import mosaic.model_pool",
    "mosaic.model_pool": "from mosaic.errors import MosaicError",
    "mosaic.errors": "",
    "mosaic.tasks": "",
    "mosaic.tasks.shared": "",
    "mosaic.losses": "",
    "mosaic.algorithms": "",
    "mosaic.algorithms.mine": "from mosaic.server.cohort import Cohort",
}


def test_a_lawful_package_has_no_violations() -> None:
    assert violations(graph_of(FAKE)) == set()


@for_each(
    ("changes", "broken"),
    [
        ({"mosaic.server.cohort": "import mosaic.data"}, ("mosaic.server.cohort", "mosaic.data")),
        ({"mosaic.server.cohort": "from mosaic import data"}, ("mosaic.server.cohort", "mosaic.data")),
        ({"mosaic.server.cohort": "import mosaic.data"}, ("mosaic.algorithms.mine", "mosaic.data.module")),
        ({"mosaic.server.cohort": "def f():\n    from mosaic.data import x"}, ("mosaic.server.cohort", "mosaic.data")),
        (
            {"mosaic.server.cohort": "import mosaic.client.worker as w"},
            ("mosaic.algorithms.mine", "mosaic.client.worker"),
        ),
        (
            {"mosaic.tasks": "from mosaic.data import x", "mosaic.server.cohort": "import mosaic.tasks.shared"},
            ("mosaic.server.cohort", "mosaic.data"),
        ),
        ({"mosaic.losses": "from mosaic.seeding import seed_for"}, ("mosaic.losses", "mosaic.seeding")),
        ({"mosaic.data.module": "import mosaic.tasks.shared"}, ("mosaic.data", "mosaic.tasks.shared")),
        ({"mosaic.model_pool": "from mosaic.data import p"}, ("mosaic.model_pool", "mosaic.data")),
        ({"mosaic.tasks.shared": "from mosaic import model_pool"}, ("mosaic.tasks.shared", "mosaic.model_pool")),
        (
            {"mosaic.cli": "", "mosaic.comparison": "def f():\n    from mosaic.cli import fit"},
            ("mosaic.comparison", "mosaic.cli"),
        ),
    ],
    ids=[
        *("plain", "from", "through another", "inside a function", "renamed", "parent package", "sibling", "upwards"),
        *("below its floor", "by whom it may not", "the command line's circle"),
    ],
)
def test_every_way_to_break_the_law_is_seen(changes: dict[str, str], broken: tuple[str, str]) -> None:
    assert broken in violations(graph_of({**FAKE, **changes}))


@pytest.mark.parametrize("source", ["import sys\nsys.path.insert(0, '.')", "from sys import path"])
def test_touching_the_search_path_is_seen(source: str) -> None:
    assert mentions_sys_path(source)
    assert not mentions_sys_path("import sys\nsys.exit(config.path)")


@pytest.mark.parametrize("source", ["import ray", "from ray.util import x", "def f():\n    import ray.data as d"])
def test_importing_ray_is_seen(source: str) -> None:
    assert imports_ray(source)
    assert not imports_ray("import rayon")


def test_printing_is_seen() -> None:
    assert prints("def f():\n    print('x')")
    assert prints("show = print")
    assert not prints("console.print('x')")
