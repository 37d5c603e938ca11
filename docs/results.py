"""Draw the README's table of results; ``python docs/results.py`` writes the picture."""

import re
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "assets" / "results.svg"

_LEFT, _RIGHT, _TOP, _ROW = 330, 740, 34, 62
_NUMBER = re.compile(r"(0\.\d+)(?: \[(0\.\d+), (0\.\d+)\])?")


def results() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the name of each row of the table, with the heading and content of its cells."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^\| .* \|$", text[text.index("| real data |") :])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    headings, *content = rows
    return [(row[0], list(zip(headings[2:], row[2:], strict=True))) for row in content]


def picture() -> str:
    """Return the picture as SVG: a dot per score, with its interval where the table has one."""
    rows = results()
    height = _TOP + _ROW * len(rows) + 26
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" '
        'font-size="13" fill="#1d2733">',
        "<title>Macro-F1 with 95 % intervals over speakers</title>",
        f'<rect width="760" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="20" font-weight="bold">macro-F1, 95 % intervals over speakers</text>',
    ]
    for tick in range(0, 11, 2):
        x = _x(tick / 10)
        lines.append(f'<path d="M{x},{_TOP} V{height - 24}" stroke="#e3e8ee"/>')
        lines.append(f'<text x="{x}" y="{height - 8}" text-anchor="middle">{tick / 10:.1f}</text>')
    for index, (name, cells) in enumerate(rows):
        y = _TOP + 14 + index * _ROW
        lines.append(f'<text x="12" y="{y}" font-weight="bold">{escape(name)}</text>')
        shown = [(heading, found, cell) for heading, cell in cells if (found := _NUMBER.search(cell))]
        best = shown[-1]
        for heading, found, cell in shown:
            colour = "#0b6e4f" if (heading, found, cell) == best else "#7a8794"
            row_y = y + (28 if colour == "#0b6e4f" else 10)
            value, low, high = found.groups()
            if low is not None:
                lines.append(
                    f'<path d="M{_x(float(low))},{row_y} H{_x(float(high))}" stroke="{colour}" '
                    'stroke-width="3"/>'
                )
            lines.append(f'<circle cx="{_x(float(value))}" cy="{row_y}" r="5" fill="{colour}"/>')
        label = f"{best[0]}: {_NUMBER.sub(lambda match: match[1], best[2])}"
        lines.append(f'<text x="12" y="{y + 32}" fill="#0b6e4f">{escape(label)}</text>')
        others = ", ".join(_label(heading, cell) for heading, _, cell in shown[:-1])
        lines.append(f'<text x="12" y="{y + 16}" fill="#5c6873" font-size="11">{escape(others)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _label(heading: str, cell: str) -> str:
    """Return a cell without its interval; before a number alone, the first words of its heading."""
    text = _NUMBER.sub(lambda match: match[1], cell).strip("()")
    return f"{heading.split(' of ')[0].removeprefix('linear ')} {text}" if text[0].isdigit() else text


def _x(score: float) -> int:
    return round(_LEFT + score * (_RIGHT - _LEFT))


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
