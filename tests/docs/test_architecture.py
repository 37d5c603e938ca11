"""Imports point down and have no circles, and the picture of the packages is up to date."""

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("architecture", REPOSITORY / "docs" / "architecture.py")
architecture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architecture)


def position(package):
    return architecture.PACKAGES.index(package)


def circle(graph):
    """Return a circle of a graph, empty where there is none."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        for target in sorted(graph[node]):
            if found := visit(target):
                return found
        done.add(path.pop())
        return []

    return next((found for node in graph if (found := visit(node))), [])


def test_every_package_has_a_layer():
    folders = {path.parent.name for path in (REPOSITORY / "sercache").glob("*/__init__.py")}
    assert folders == set(architecture.PACKAGES)


def test_imports_point_down():
    arrows = architecture.package_imports()
    assert len(arrows) > 30
    upward = {pair: files for pair, files in arrows.items() if position(pair[0]) > position(pair[1])}
    assert not upward


def test_the_files_beside_the_packages_import_none_of_them():
    known = architecture.modules()
    beside = [module for module in known if module.count(".") == 1]
    files = [module for module in beside if module.split(".")[1] not in architecture.PACKAGES]
    assert len(files) > 10
    upward = {
        (module, target)
        for module in files
        for target in architecture.imports(module, known)
        if module.split(".")[1] not in architecture.FIRST_RECIPE
        and target.split(".")[1] in architecture.PACKAGES
    }
    assert upward <= {("sercache.recipe", "sercache.stacking.names")}  # a list of names that imports nothing


def test_no_modules_import_each_other_in_a_circle():
    known = architecture.modules()
    assert len(known) > 200
    assert circle({module: architecture.imports(module, known) for module in known}) == []


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
    ],
)
def test_a_circle_would_be_found(graph, found):
    assert circle(graph) == found


def test_the_picture_is_up_to_date():
    shown = architecture.PICTURE.read_text(encoding="utf-8")
    assert shown == architecture.picture(), "run python docs/architecture.py"


def test_the_files_to_follow_a_command_exist_and_are_few():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("## Follow one command") :].split("\n## ")[0]
    ways = section.split("\n**`sercache ")[1:]
    assert len(ways) == 3
    for way in ways:
        files = re.findall(r"(?m)^\d+\. `([^`]+)`", way)
        assert 0 < len(files) <= 12
        assert [file for file in files if not (REPOSITORY / file).is_file()] == []
