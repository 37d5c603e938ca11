"""The messages on the page of troubleshooting are those of the code."""

import ast
import re
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GAP = "…"


@cache
def templates():
    """Return every text of the library, values in f-strings as a gap."""
    found = []
    for path in sorted((REPOSITORY / "sercache").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [value.value if isinstance(value, ast.Constant) else GAP for value in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def messages():
    page = (REPOSITORY / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```text\n(.*?)^```", page)
    return [line for block in blocks for line in block.splitlines()]


def is_of(message, template):
    """Whether the pieces between gaps stand in the template, in this order."""
    place = 0
    for piece in message.split(GAP):
        if piece.strip(" :;,.'()"):
            place = template.find(piece, place)
            if place < 0:
                return False
            place += len(piece)
    return True


def test_every_message_is_in_the_code():
    known = templates()
    listed = messages()
    assert len(listed) > 40
    missing = [message for message in listed if not any(is_of(message, pattern) for pattern in known)]
    assert not missing


def test_a_message_that_is_not_in_the_code_would_be_found():
    assert not any(is_of(f"unknown classroom '{GAP}' (classes: {GAP})", template) for template in templates())
