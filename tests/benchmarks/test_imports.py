"""Benchmarks import what there is."""

import ast
from importlib import import_module

import pytest

from tests.small_runs import REPOSITORY

FILES = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [file.name for file in FILES])
def test_what_a_benchmark_imports_of_this_package_is_there(name: str) -> None:
    for node in ast.walk(ast.parse((REPOSITORY / "benchmarks" / name).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mosaic":
            module = import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    import_module(f"{node.module}.{alias.name}")
