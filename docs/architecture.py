"""Draw the packages of sercache and their imports; ``python docs/architecture.py`` writes the picture.

An import points down when the imported package stands in a lower layer, or in the same layer further right.
"""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "assets" / "architecture.svg"

LAYERS = (
    ("serving", "reporting", "experiments", "benchmarks"),
    ("bundle", "stacking", "training", "extract"),
    ("heads", "engines", "evaluation", "encoders", "cache"),
    ("corpus",),
)
"""The packages from top to bottom; the files beside them are below all, those of FIRST_RECIPE excepted."""

FIRST_RECIPE = ("first_recipe", "first_recipe_features", "first_recipe_text")
"""Files beside the packages that import packages, for ``sercache init``."""

PACKAGES = tuple(package for layer in LAYERS for package in layer)
_WIDTH, _HEIGHT, _GAP, _MARGIN = 118, 40, 92, 20


def modules() -> dict[str, Path]:
    """Return every module by its dotted name; ``sercache`` itself, which only exports, is left out."""
    files = sorted((REPOSITORY / "sercache").rglob("*.py"))
    return {name: path for path in files if (name := _dotted(path)) != "sercache"}


def imports(module: str, known: dict[str, Path]) -> set[str]:
    """Return the modules that a module imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(known[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in known and name != module}


def package_imports() -> dict[tuple[str, str], list[str]]:
    """Return the modules behind each import of one package by another."""
    known = modules()
    arrows: dict[tuple[str, str], list[str]] = {}
    for module in known:
        source = module.split(".")[1:2]
        for target in sorted(imports(module, known)):
            pair = (*source, *target.split(".")[1:2])
            if len(set(pair)) == 2 and set(pair) <= set(PACKAGES):
                arrows.setdefault((pair[0], pair[1]), []).append(f"{module} imports {target}")
    return arrows


def picture() -> str:
    """Return the picture as SVG."""
    places = dict(_places())
    height = len(LAYERS) * _GAP + 2 * _MARGIN + _HEIGHT - 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif">',
        "<title>The packages of sercache; an arrow points from a package to one that it imports</title>",
        f'<rect width="760" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#7a8794"/></marker></defs>',
    ]
    for source, target in sorted(package_imports()):
        (x1, y1), (x2, y2) = places[source], places[target]
        if y1 == y2:  # a curve below the row
            path = f"M{x1},{y1 + 20} C{x1},{y1 + 52} {x2},{y2 + 52} {x2},{y2 + 22}"
        else:
            path = f"M{x1},{y1 + 20} L{x2},{y2 - 22}"
        lines.append(f'<path d="{path}" fill="none" stroke="#9aa7b3" marker-end="url(#head)"/>')
    for package, (x, y) in places.items():
        left, top = x - _WIDTH // 2, y - _HEIGHT // 2
        lines.append(
            f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="#eef3f8" '
            'stroke="#44546a"/>'
        )
        lines.append(
            f'<text x="{x}" y="{y + 5}" font-size="15" text-anchor="middle" fill="#1d2733">'
            f"{escape(package)}</text>"
        )
    return "\n".join([*lines, "</svg>", ""])


def _places() -> Iterator[tuple[str, tuple[int, int]]]:
    for row, layer in enumerate(LAYERS):
        step = 720 // len(layer)
        for column, package in enumerate(layer):
            yield package, (20 + step // 2 + column * step, _MARGIN + 20 + row * _GAP)


def _dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
