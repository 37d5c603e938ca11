"""Join the members' posteriors with each other and with the corpus, or refuse tables that do not belong."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Corpus
from sercache.corpus.folds import FoldMap
from sercache.corpus.manifest import read_corpus
from sercache.corpus.targets import TargetPolicy, consensus, soft_targets
from sercache.errors import StackingError
from sercache.events import Event, Listener, ignore
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.run import Run, derived_members
from sercache.stacking.extras import extra_columns
from sercache.stacking.rows import Floats, StackingInputs, StackingRows, columns_in_order

_DEFAULT_POLICY = TargetPolicy()
_LEAKIEST_FIRST = ("in-sample", "development", "out-of-fold", "held-out")


def load_rows(run: Run, *, allow_in_sample: bool = False, listener: Listener = ignore) -> StackingRows:
    """Join the predictions of a run's members with the run's corpus; see :func:`join`.

    Raises:
        StackingError: no member has posteriors yet, or they may not be joined.
    """
    recipe = run.recipe()
    corpus = read_corpus(recipe.corpus)
    if recipe.classes is not None:
        corpus = corpus.with_classes(recipe.classes)
    extras = extra_columns(recipe, corpus)
    tables, untrained = list[Posteriors](), list[str]()
    for member in recipe.members:
        path = run.posteriors_path(member.name)
        if path.is_file():
            tables.append(Posteriors.load(path))
        else:
            untrained.append(member.name)
    if not tables:
        raise StackingError(
            f"no member has posteriors yet, first '{untrained[0]}' "
            f"({run.posteriors_path(untrained[0])}): sercache train-ensemble finishes it"
        )
    if untrained:
        _warn(
            listener,
            f"{len(untrained)} of {len(recipe.members)} members are left out, as they have no posteriors "
            f"yet: {', '.join(untrained)}; sercache train-ensemble finishes them",
        )
    for derived in derived_members(run, "finetuned"):
        path = run.posteriors_path(derived.name)
        if path.is_file():
            tables.append(Posteriors.load(path))
        else:
            _warn(
                listener,
                f"'{derived.name}' is left out: it has no posteriors yet; finish it with sercache finetune",
            )
    policy = TargetPolicy(**recipe.targets.model_dump())
    rows = join(tables, corpus, policy, extras, allow_in_sample=allow_in_sample, listener=listener)
    if not run.folds_path.is_file():
        return rows
    fold_map = FoldMap.load(run.folds_path)
    if rows.fold_map_digest != fold_map.digest:
        raise StackingError(
            f"posteriors of '{tables[0].member}' come from other folds ({rows.fold_map_digest or 'none'}) "
            f"than {run.folds_path} ({fold_map.digest}): train the members again"
        )
    folds = [fold_map.folds.get(utterance_id, ALL_FOLDS) for utterance_id in rows.inputs.ids]
    return replace(rows, folds=np.asarray(folds, dtype=np.int64))


def join(
    tables: Sequence[Posteriors],
    corpus: Corpus,
    policy: TargetPolicy = _DEFAULT_POLICY,
    extras: tuple[tuple[str, ...], Floats] | None = None,
    *,
    allow_in_sample: bool = False,
    listener: Listener = ignore,
) -> StackingRows:
    """Join members by utterance id, their columns by name; rows come in the corpus's order.

    Rows that some member has not predicted are left out for all, with a warning to the listener, which
    also gets warnings of members that are byte-identical and of members that predict one class only.

    Args:
        tables: one per member.
        corpus: holds the truth; its order of classes and attributes counts.
        policy: how votes become soft targets.
        extras: names, E of them, and values ``(len(corpus), E)`` of further inputs of stackers.
        allow_in_sample: accept rows that a member trained on, to look at the leak.
        listener: receives the warnings.

    Raises:
        StackingError: members differ in classes, attributes or folds, share no rows, predict rows that are
            not in the corpus, or trained on rows they predict.
    """
    if not tables:
        raise StackingError("there are no members to stack")
    names = [table.member for table in tables]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StackingError(f"member '{twice[0]}' occurs twice")
    for table in tables:
        _check_member(table, tables[0], corpus, allow_in_sample=allow_in_sample)
    ids = _common_ids(tables, corpus, listener)
    taken = [table.take(ids) for table in tables]
    folds = _common_folds(taken)
    selected = corpus.select(ids)
    attribute_names = corpus.attribute_names
    probabilities = [
        t.class_probabilities[:, columns_in_order("classes", t.classes, corpus.classes)] for t in taken
    ]
    attributes = [
        t.attribute_values[:, columns_in_order("attributes", t.attributes, attribute_names)] for t in taken
    ]
    extra_names, extra_values = extras or ((), np.empty((len(corpus), 0)))
    row_of = {utterance_id: row for row, utterance_id in enumerate(corpus.ids)}
    inputs = StackingInputs(
        ids=ids,
        members=tuple(names),
        classes=corpus.classes,
        attributes=corpus.attributes,
        class_probabilities=np.stack(probabilities, axis=1),
        attribute_values=np.stack(attributes, axis=1),
        extras=extra_names,
        extra_values=extra_values[[row_of[utterance_id] for utterance_id in ids]],
    )
    _report_odd_members(inputs, listener)
    return StackingRows(
        inputs=inputs,
        corpus=selected,
        soft_targets=soft_targets(selected, policy),
        labels=consensus(selected),
        attribute_targets=selected.attribute_values,
        folds=folds,
        origins=_leakiest([table.origins for table in taken]),
        fold_map_digest=tables[0].fold_map_digest,
    )


def _check_member(table: Posteriors, first: Posteriors, corpus: Corpus, *, allow_in_sample: bool) -> None:
    for what, have, wanted in (
        ("classes", table.classes, corpus.classes),
        ("attributes", table.attributes, corpus.attribute_names),
    ):
        if sorted(have) != sorted(wanted):
            raise StackingError(
                f"member '{table.member}' predicts the {what} {', '.join(have) or 'none'}; "
                f"the corpus has {', '.join(wanted) or 'none'}"
            )
    if table.fold_map_digest != first.fold_map_digest:
        raise StackingError(
            f"members '{first.member}' and '{table.member}' were trained on different folds "
            f"({first.fold_map_digest or 'none'} and {table.fold_map_digest or 'none'}): "
            "out-of-fold rows of one are training rows of the other, so they cannot be stacked together"
        )
    in_sample = int((table.origins == "in-sample").sum())
    if in_sample and not allow_in_sample:
        raise StackingError(
            f"member '{table.member}': {in_sample} of {len(table.ids)} rows are in-sample, predicted by a "
            "model that trained on them; a stacker would learn how far each member overfits, and fail on new "
            "speakers. Train the member on folds, or pass --allow-in-sample to see the leak"
        )
    unknown = [utterance_id for utterance_id in table.ids if utterance_id not in corpus.by_id]
    if unknown:
        raise StackingError(
            f"member '{table.member}' predicts {len(unknown)} utterances that are not in the corpus, "
            f"first '{unknown[0]}'"
        )


def _common_ids(tables: Sequence[Posteriors], corpus: Corpus, listener: Listener) -> tuple[str, ...]:
    sets = [set(table.ids) for table in tables]
    all_ids, common = set.union(*sets), set.intersection(*sets)
    for table, ids in zip(tables, sets, strict=True):
        if len(ids) < len(all_ids):
            _warn(
                listener,
                f"member '{table.member}' misses {len(all_ids) - len(ids)} of {len(all_ids)} rows; "
                "they are left out for all members",
            )
    if not common:
        raise StackingError(f"no utterance was predicted by all {len(tables)} members")
    return tuple(utterance_id for utterance_id in corpus.ids if utterance_id in common)


def _common_folds(tables: Sequence[Posteriors]) -> NDArray[np.int64]:
    folds = tables[0].folds.astype(np.int64)
    for table in tables[1:]:
        differs = (folds != table.folds) & (folds != ALL_FOLDS) & (table.folds != ALL_FOLDS)
        if differs.any():
            row = int(differs.argmax())
            raise StackingError(
                f"utterance '{table.ids[row]}' is in fold {folds[row]} of member '{tables[0].member}' "
                f"and in fold {table.folds[row]} of '{table.member}'"
            )
        folds = np.where(folds == ALL_FOLDS, table.folds, folds)
    return folds


def _leakiest(origins: Sequence[NDArray[np.str_]]) -> NDArray[np.str_]:
    ranks = [[_LEAKIEST_FIRST.index(origin) for origin in member.tolist()] for member in origins]
    return np.asarray([_LEAKIEST_FIRST[rank] for rank in np.min(ranks, axis=0)], dtype=np.str_)


def _report_odd_members(inputs: StackingInputs, listener: Listener) -> None:
    seen: dict[bytes, str] = {}
    for index, member in enumerate(inputs.members):
        probabilities = inputs.class_probabilities[:, index]
        digest = hashlib.sha256(
            probabilities.tobytes() + inputs.attribute_values[:, index].tobytes()
        ).digest()
        if digest in seen:
            _warn(listener, f"members '{seen[digest]}' and '{member}' are identical, bit for bit")
        seen.setdefault(digest, member)
        predicted = np.unique(probabilities.argmax(axis=1)) if inputs.classes else np.empty(0)
        if len(predicted) == 1 and len(inputs) > 1:
            _warn(listener, f"member '{member}' predicts '{inputs.classes[predicted[0]]}' for every row")


def _warn(listener: Listener, message: str) -> None:
    listener(Event("warning", "stack", message=message))
