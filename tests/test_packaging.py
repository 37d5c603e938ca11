"""What is installed without the repository: every package, and nothing by the name of cli."""

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_package_is_installed():
    stated = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    library = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for path in (REPOSITORY / "sercache").rglob("__init__.py")
    }
    assert set(stated["packages"]) == library | {"sercache.cli", "sercache.data"}
    assert stated["package-dir"]["sercache.cli"] == "cli"
