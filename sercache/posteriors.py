"""Predictions of members and stackers: a table keyed by utterance id with named columns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sercache.errors import StackingError
from sercache.files import write_atomically

Origin = Literal["out-of-fold", "development", "held-out", "in-sample"]
"""The origin of a row's prediction: a fold model that did not learn from its speaker; the mean of the fold
models, on rows of early stopping or on rows that no model has seen; a model that learned from the row."""

ALL_FOLDS = -1


@dataclass(frozen=True)
class Posteriors:
    """Class probabilities and attribute values of one member.

    Attributes:
        member: who predicted.
        ids: utterance ids, N of them, none twice.
        classes: names of the columns of ``class_probabilities``, C of them.
        attributes: names of the columns of ``attribute_values``, A of them.
        class_probabilities: ``(N, C)`` float64, rows sum to 1; C is 0 with attributes alone.
        attribute_values: ``(N, A)`` float64, on the corpus's scale.
        folds: ``(N,)`` int64, the fold whose model produced the row; ``ALL_FOLDS`` for a mean of all.
        origins: ``(N,)`` of :data:`Origin`.
        fold_map_digest: which assignment of speakers to folds this was.
    """

    member: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    class_probabilities: NDArray[np.float64]
    attribute_values: NDArray[np.float64]
    folds: NDArray[np.int64]
    origins: NDArray[np.str_]
    fold_map_digest: str

    def __post_init__(self) -> None:
        rows, where = len(self.ids), f"posteriors of '{self.member}'"
        if len(set(self.ids)) != rows:
            raise StackingError(f"{where}: an utterance id occurs twice")
        if self.class_probabilities.shape != (rows, len(self.classes)):
            raise StackingError(
                f"{where}: {self.class_probabilities.shape} class probabilities for "
                f"{rows} ids x {len(self.classes)} classes"
            )
        if self.attribute_values.shape != (rows, len(self.attributes)):
            raise StackingError(
                f"{where}: {self.attribute_values.shape} attribute values for "
                f"{rows} ids x {len(self.attributes)} attributes"
            )
        if self.folds.shape != (rows,) or self.origins.shape != (rows,):
            raise StackingError(f"{where}: folds and origins must have one entry per id")
        if not np.isfinite(self.class_probabilities).all() or not np.isfinite(self.attribute_values).all():
            raise StackingError(f"{where}: not all values are finite")
        if rows and self.classes and not np.allclose(self.class_probabilities.sum(axis=1), 1.0, atol=1e-3):
            raise StackingError(f"{where}: class probabilities do not sum to 1")
        unknown = set(self.origins.tolist()) - set(get_args(Origin))
        if unknown:
            raise StackingError(f"{where}: unknown origin {sorted(unknown)}")

    def take(self, ids: Sequence[str]) -> "Posteriors":
        """Return the rows of ``ids``, in that order.

        Raises:
            StackingError: an id has no row here.
        """
        rows = {utterance_id: row for row, utterance_id in enumerate(self.ids)}
        missing = [utterance_id for utterance_id in ids if utterance_id not in rows]
        if missing:
            raise StackingError(
                f"posteriors of '{self.member}' miss {len(missing)} of {len(ids)} utterances, "
                f"first '{missing[0]}'"
            )
        order = np.asarray([rows[utterance_id] for utterance_id in ids], dtype=np.int64)
        return Posteriors(
            self.member,
            tuple(ids),
            self.classes,
            self.attributes,
            self.class_probabilities[order],
            self.attribute_values[order],
            self.folds[order],
            self.origins[order],
            self.fold_map_digest,
        )

    def save(self, path: Path) -> None:
        """Write a Parquet table with columns ``id, fold, origin, p:<class>..., attribute:<name>...``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, pa.Array] = {
            "id": pa.array(self.ids, pa.string()),
            "fold": pa.array(self.folds, pa.int64()),
            "origin": pa.array(self.origins.tolist(), pa.string()),
        }
        for column, name in enumerate(self.classes):
            columns[f"p:{name}"] = pa.array(self.class_probabilities[:, column], pa.float64())
        for column, name in enumerate(self.attributes):
            columns[f"attribute:{name}"] = pa.array(self.attribute_values[:, column], pa.float64())
        described = {
            "member": self.member,
            "classes": self.classes,
            "attributes": self.attributes,
            "fold_map_digest": self.fold_map_digest,
        }
        table = pa.table(columns).replace_schema_metadata({"sercache": json.dumps(described)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_atomically(path, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: Path) -> "Posteriors":
        """Read what :meth:`save` wrote; columns are matched by name.

        Raises:
            StackingError: the file is missing, damaged, or not a table of posteriors.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            described = json.loads((table.schema.metadata or {})[b"sercache"])
            classes, attributes = tuple(described["classes"]), tuple(described["attributes"])
            rows = table.num_rows

            def matrix(prefix: str, names: tuple[str, ...]) -> NDArray[np.float64]:
                values = [table[f"{prefix}:{name}"].to_numpy() for name in names]
                return np.column_stack(values) if values else np.empty((rows, 0))

            return cls(
                member=described["member"],
                ids=tuple(table["id"].to_pylist()),
                classes=classes,
                attributes=attributes,
                class_probabilities=matrix("p", classes),
                attribute_values=matrix("attribute", attributes),
                folds=table["fold"].to_numpy(),
                origins=np.asarray(table["origin"].to_pylist(), dtype=np.str_),
                fold_map_digest=described["fold_map_digest"],
            )
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise StackingError(f"{path}: not a table of posteriors ({error})") from error
