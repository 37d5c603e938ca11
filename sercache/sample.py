"""The bundled sample corpus: synthetic speech that this project made itself (see ``data/README.md``)."""

from importlib.resources import as_file, files
from pathlib import Path

from sercache.files import write_atomically

_SAMPLE_FILES = ("corpus.csv", "recipe.yaml", "README.md")


def lay_out_sample(folder: Path) -> Path:
    """Copy the sample's recordings, manifest and recipe into ``folder``; return the path of the recipe.

    What is there already with the same content is left alone; a recipe that was changed is kept.
    """
    recipe_path = folder / "recipe.yaml"
    with as_file(files("sercache.data")) as sample:
        sources = [sample / name for name in _SAMPLE_FILES] + sorted((sample / "audio").glob("*.ogg"))
        for source in sources:
            target = folder / source.relative_to(sample)
            if target == recipe_path and target.exists():
                continue
            content = source.read_bytes()
            if not target.exists() or target.read_bytes() != content:
                write_atomically(target, content)
    return recipe_path
