"""EmoBox (Ma et al. 2024): the metadata of 32 corpora in one format, a folder ``data/<corpus>`` for each.

``<corpus>.jsonl`` has a line per clip: key, wav, emo, length, and start_time and end_time in corpora of long
recordings. ``label_map.json`` gives names to the labels, and several labels one name. The speakers stand only
in ``data.seg.wrd.stm``. ``fold_<k>/<corpus>_train_fold_<k>.jsonl`` (``valid``, ``test``) are the official
folds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from sercache.corpus.columns import format_number
from sercache.corpus.readers.sources import (
    ReaderModel,
    ReaderOptions,
    one_vote,
    parse_options,
    require_folder,
)
from sercache.corpus.utterance import NO_AGREEMENT, OTHER, Corpus, Split, Utterance
from sercache.errors import CorpusError

_PARTS: dict[str, Split] = {"train": "train", "valid": "development", "test": "test"}
_OUTSIDE = {"Other": OTHER, "No-agreement": NO_AGREEMENT}
"""EmoBox's names (for MSP-Podcast) of what is no class."""


class EmoboxOptions(ReaderModel):
    """Options of the EmoBox reader."""

    fold: int | None = Field(None, ge=1)
    """Take the splits from this official fold. Many of these folds share speakers between train and test."""

    audio_root: Path | None = None
    """The folder that holds ``downloads/``; EmoBox's own root by default."""


def read_emobox(root: Path, options: ReaderOptions) -> Corpus:
    """Read one corpus of EmoBox from its folder ``EmoBox/data/<corpus>``.

    The one label is the one vote. The corpus's root is the folder that holds ``downloads/``.
    """
    wanted = parse_options(EmoboxOptions, options)
    require_folder(root)
    name = root.resolve().name
    label_map = _read_label_map(root / "label_map.json")
    classes = tuple(dict.fromkeys(label for label in label_map.values() if label not in _OUTSIDE))
    splits = _read_splits(root, name, wanted.fold) if wanted.fold else {}
    speakers = _read_speakers(root / "data.seg.wrd.stm")
    utterances: dict[str, Utterance] = {}
    for path in _tables(root, name):
        for where, entry in _entries(path):
            label = label_map.get(entry["emo"], entry["emo"])
            if label not in (*classes, *_OUTSIDE):
                raise CorpusError(
                    f"{where}: label '{entry['emo']}' is not in label_map.json "
                    f"(labels: {', '.join(label_map)})"
                )
            utterance_id = entry["key"]
            utterances[utterance_id] = Utterance(
                id=utterance_id,
                audio=entry["wav"],
                text=entry.get("text") or None,
                speaker=_speaker(entry) or speakers.get(utterance_id),
                split=splits.get(utterance_id),
                start_seconds=entry.get("start_time"),
                end_seconds=entry.get("end_time"),
                votes=one_vote(classes, label),
                other_votes=float(_OUTSIDE.get(label) == OTHER),
                extras=_extras(entry, label),
            )
    if not utterances:
        raise CorpusError(f"{root} lists no clips")
    audio_root = wanted.audio_root or root.resolve().parents[1]
    return Corpus(classes, (), tuple(utterances.values()), audio_root)


def _tables(root: Path, name: str) -> list[Path]:
    """Return the table of the whole corpus, or, where EmoBox has none, those of its first fold."""
    whole = root / f"{name}.jsonl"
    tables = [whole] if whole.is_file() else sorted((root / "fold_1").glob(f"{name}_*_fold_1.jsonl"))
    if not tables:
        raise CorpusError(f"{root} has no {name}.jsonl; give the folder EmoBox/data/<corpus>")
    return tables


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            entry = json.loads(line)
            missing = [name for name in ("key", "wav", "emo") if not isinstance(entry.get(name), str)]
        except (json.JSONDecodeError, AttributeError):
            raise CorpusError(f"{where} is not a JSON object") from None
        if missing:
            raise CorpusError(f"{where} has no '{missing[0]}'")
        yield where, entry


def _extras(entry: dict[str, Any], label: str) -> dict[str, str]:
    extras = {"dataset": str(entry.get("dataset", "")), "label_published": _OUTSIDE.get(label, label)}
    if isinstance(entry.get("length"), int | float):
        extras["seconds"] = format_number(float(entry["length"]))
    for name in ("language", "gender"):
        extras[name] = str(entry.get(name) or "")
    return {name: value for name, value in extras.items() if value}


def _speaker(entry: dict[str, Any]) -> str | None:
    """Return the speaker of an entry; the published files have none there, but later tools add one."""
    return next((str(entry[name]) for name in ("spk", "speaker", "spkid") if entry.get(name)), None)


def _read_speakers(path: Path) -> dict[str, str]:
    """Read ``key channel speaker start end <...> label``, a line for each clip."""
    if not path.is_file():
        return {}
    fields = (line.split(maxsplit=3) for line in path.read_text(encoding="utf-8").splitlines())
    return {row[0]: row[2] for row in fields if len(row) == 4}


def _read_label_map(path: Path) -> dict[str, str]:
    try:
        label_map = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorpusError(
            f"{path.parent} has no label_map.json; give the folder EmoBox/data/<corpus>"
        ) from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path.name} line {error.lineno}: {error.msg}") from None
    return {str(label): str(name) for label, name in label_map.items()}


def _read_splits(root: Path, name: str, fold: int) -> dict[str, Split]:
    folder = root / f"fold_{fold}"
    if not folder.is_dir():
        known = ", ".join(sorted(path.name.removeprefix("fold_") for path in root.glob("fold_*")))
        raise CorpusError(f"{root} has no fold {fold} (folds: {known})")
    splits: dict[str, Split] = {}
    for part, split in _PARTS.items():
        path = folder / f"{name}_{part}_fold_{fold}.jsonl"
        if path.is_file():
            splits |= {entry["key"]: split for _, entry in _entries(path)}
    return splits
