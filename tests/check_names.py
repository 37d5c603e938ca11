"""Refuse pronouns as identifiers: ``python tests/check_names.py`` lists them, and fails if there is one."""

import sys
import tokenize
from pathlib import Path

PRONOUNS = frozenset({"one", "its", "own", "said", "told", "those", "each"})
REPOSITORY = Path(__file__).resolve().parents[1]


def pronouns_in(path: Path) -> list[str]:
    """Return a line ``file:line: name`` for each identifier in a file that is a pronoun."""
    with path.open("rb") as stream:
        return [
            f"{path}:{token.start[0]}: {token.string}"
            for token in tokenize.tokenize(stream.readline)
            if token.type == tokenize.NAME and token.string in PRONOUNS
        ]


def main() -> int:
    """Print every pronoun of the library, the commands and the tests; return 1 where there is one."""
    files = [path for folder in ("sercache", "cli", "tests") for path in (REPOSITORY / folder).rglob("*.py")]
    assert files
    found = [line for path in sorted(files) for line in pronouns_in(path)]
    for line in found:
        print(line, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
