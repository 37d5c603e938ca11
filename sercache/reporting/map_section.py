"""A map of the utterances: pooled embeddings in the plane, by class, speaker, and right or wrong."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sercache.cache.pooling import pooled_layer
from sercache.cache.store import Cache
from sercache.errors import Interrupted, SercacheError
from sercache.evaluation.metrics import Floats
from sercache.events import QUIET, Context
from sercache.reporting.blocks import Cell, Colouring, Map, MapPoint, Section, Table, count, number, shown
from sercache.reporting.facts import Facts, ScoredRows

MOST_POINTS = 1200
"""What t-SNE places in some seconds, and a page holds easily."""

_FEWEST_FOR_TSNE = 100
_COLOURS = 8
_COMPONENTS = 30
_MOST_COLOURINGS = 3
_THIRDS = ("low third", "middle third", "high third")


def map_section(facts: Facts, context: Context = QUIET) -> Section | None:
    """Show the map; None where rows are not at hand, or are too few."""
    scored = facts.scored
    if scored is None or len(scored.rows) < 5:
        return None
    chosen = _sample(scored)
    vectors, chosen, source = _vectors(facts, scored, chosen, context)
    if len(chosen) < 5:
        return None
    coordinates, method = in_the_plane(vectors, scored.seed)
    groups = _groups(facts, scored, chosen)
    colourings = [_colouring(name, names) for name, names in groups.items()]
    indices = [
        _colour_indices(names, colouring)
        for names, colouring in zip(groups.values(), colourings, strict=True)
    ]
    first, names_of_first = next(iter(groups.items()))
    labels = names_of_first if facts.classes else _ratings(scored, chosen)
    points = tuple(
        MapPoint(
            float(x),
            float(y),
            _label(scored, row, labels[index]),
            tuple(of_colouring[index] for of_colouring in indices),
        )
        for index, ((x, y), row) in enumerate(zip(coordinates, chosen.tolist(), strict=True))
    )
    drawn = (
        f"{len(points):,} of {len(scored.rows):,} rows, drawn at random"
        if len(points) < len(scored.rows)
        else ""
    )
    description = (
        f"{len(points):,} utterances placed by {method} of {source}; near ones are alike. "
        f"Neighbours of the same {first}: {_neighbours_alike(coordinates, names_of_first):.0%} (by chance "
        f"{_alike_by_chance(names_of_first):.0%})."
    )
    numbers = Table(
        f"Where each {first} lies: the middle of its points, from 0 to 100",
        (first, "points", "across", "down"),
        tuple(
            (
                Cell(name),
                count(int(own_rows.sum())),
                number(100 * float(coordinates[own_rows, 0].mean()), 0),
                number(100 * float(coordinates[own_rows, 1].mean()), 0),
            )
            for name in colourings[0].groups
            if (own_rows := np.asarray([group == name for group in names_of_first])).any()
        ),
    )
    title = "Map"
    caption = " ".join(
        part
        for part in (
            f"{drawn}." if drawn else "",
            "Distances between far groups mean little." if method == "t-SNE" else "",
            "Point at a dot, or put the focus on the map and use the arrow keys, to see whose it is.",
        )
        if part
    )
    return Section(
        "map", title, description, [Map(title, description, points, tuple(colourings), numbers, caption)]
    )


def in_the_plane(vectors: Floats, seed: int) -> tuple[Floats, str]:
    """Return places from 0 to 1, ``(N, 2)``, and the name of the method; the same for the same input."""
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    spread = vectors.std(axis=0)
    scaled = (vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    components = min(_COMPONENTS, *scaled.shape)
    with threadpool_limits(1):  # sums of several threads come in another order every time
        if components < 2 or not spread.any():
            coordinates, method = np.column_stack([scaled[:, 0], np.zeros(len(scaled))]), "PCA"
        else:
            coordinates = PCA(components, svd_solver="full").fit_transform(scaled)
            method = "PCA"
            if len(vectors) >= _FEWEST_FOR_TSNE:
                from sklearn.manifold import TSNE

                tsne = TSNE(init="pca", perplexity=30, random_state=seed % 2**32, max_iter=500)
                coordinates, method = tsne.fit_transform(coordinates.astype(np.float32)), "t-SNE"
    coordinates = np.asarray(coordinates[:, :2], dtype=np.float64)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    return (coordinates - low) / np.where(high > low, high - low, 1.0), method


def _sample(scored: ScoredRows) -> NDArray[np.int64]:
    count_rows = len(scored.rows)
    if count_rows <= MOST_POINTS:
        return np.arange(count_rows)
    return np.sort(np.random.default_rng(scored.seed).permutation(count_rows)[:MOST_POINTS])


def _vectors(
    facts: Facts, scored: ScoredRows, chosen: NDArray[np.int64], context: Context
) -> tuple[Floats, NDArray[np.int64], str]:
    """Return what the rows are placed by, the rows that have it, and what it is in words."""
    recipe = facts.recipe
    if recipe is not None:
        read = Counter(name for member in recipe.members for name in member.features)
        for name, _ in read.most_common():
            try:
                feature_set = Cache(recipe.cache).find(recipe.features[name])
                ids = [scored.rows.inputs.ids[row] for row in chosen.tolist()]
                there = np.asarray([row_id in feature_set for row_id in ids])
                if not there.any():
                    continue
                present = [row_id for row_id, is_there in zip(ids, there, strict=True) if is_there]
                pooled = pooled_layer(feature_set, feature_set.layers[-1:], present, context=context)
                words = f"the pooled features '{name}' ({shown(feature_set.spec.encoder, 60)})"
                return pooled, chosen[there], words
            except Interrupted:
                raise
            except SercacheError:
                continue
    if not facts.classes:
        values = scored.rows.inputs.attribute_values[chosen].reshape(len(chosen), -1)
        return values, chosen, "the members' attribute values (no features are at hand)"
    probabilities = scored.rows.inputs.class_probabilities[chosen]
    logs = np.log(np.clip(probabilities, 1e-6, None)).reshape(len(chosen), -1)
    return logs, chosen, "the members' log-probabilities (no features are at hand)"


def _groups(facts: Facts, scored: ScoredRows, chosen: NDArray[np.int64]) -> dict[str, list[str]]:
    """Return the ways to colour the points, the first one first, and the group of each point."""
    speakers = [shown(scored.rows.speakers[row] or "", 20) for row in chosen.tolist()]
    by_speaker = {"speaker": speakers} if len(set(speakers) - {""}) > 1 else {}
    if not facts.classes:
        thirds = _thirds(scored, chosen)
        return dict(list(thirds.items())[: _MOST_COLOURINGS - len(by_speaker)]) | by_speaker
    labels = scored.rows.labels[chosen].tolist()
    decisions = scored.decisions(facts.choice)[chosen].tolist()
    classes = [shown(facts.classes[label], 20) if label >= 0 else "no consensus" for label in labels]
    outcomes = [
        "no consensus" if label < 0 else "right" if label == decision else "wrong"
        for label, decision in zip(labels, decisions, strict=True)
    ]
    return {"class": classes} | by_speaker | {"right or wrong": outcomes}


def _thirds(scored: ScoredRows, chosen: NDArray[np.int64]) -> dict[str, list[str]]:
    """Return by attribute in which third of the ratings each row is: low, middle or high."""
    thirds = {}
    for attribute, values in zip(scored.rows.inputs.attributes, scored.rows.attribute_targets.T, strict=True):
        known = values[~np.isnan(values)]
        if not len(known):
            continue
        edges = np.quantile(known, [1 / 3, 2 / 3])
        names = [
            "no rating" if np.isnan(value) else _THIRDS[int(np.searchsorted(edges, value, side="right"))]
            for value in values[chosen]
        ]
        thirds[shown(attribute.name, 30)] = names
    return thirds


def _ratings(scored: ScoredRows, chosen: NDArray[np.int64]) -> list[str]:
    """Return the ratings of each row, in words."""
    names = [shown(attribute.name, 20) for attribute in scored.rows.inputs.attributes]
    return [
        ", ".join(
            f"{name} {value:.1f}" for name, value in zip(names, values, strict=True) if not np.isnan(value)
        )
        for values in scored.rows.attribute_targets[chosen]
    ]


def _colouring(name: str, groups: Sequence[str]) -> Colouring:
    """Return the legend: the largest groups have colours, the rest is grey."""
    sizes = Counter(groups)
    rest = {"no consensus", "no rating", ""}
    ranked = [
        group for group, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0])) if group not in rest
    ]
    if name == "right or wrong":
        ranked = [group for group in ("right", "wrong") if group in sizes]
    elif set(ranked) <= set(_THIRDS):
        ranked = [group for group in _THIRDS if group in sizes]
    named = ranked[:_COLOURS]
    others = sum(sizes.values()) - sum(sizes[group] for group in named)
    grey = (
        "no rating"
        if "no rating" in sizes
        else "no consensus"
        if len(ranked) <= _COLOURS and name != "speaker"
        else "others"
    )
    legend = (*named, grey) if others else tuple(named)
    return Colouring(name, legend, tuple([sizes[group] for group in named] + ([others] if others else [])))


def _colour_indices(groups: Sequence[str], colouring: Colouring) -> list[int]:
    colour_index = {name: index for index, name in enumerate(colouring.groups[:_COLOURS])}
    colour_index.pop("no consensus", None)
    colour_index.pop("no rating", None)
    return [colour_index.get(group, _COLOURS) for group in groups]


def _label(scored: ScoredRows, row: int, class_name: str) -> str:
    speaker = scored.rows.speakers[row]
    return f"{shown(scored.rows.inputs.ids[row], 60)} · {class_name}" + (
        f" · {shown(speaker, 30)}" if speaker else ""
    )


def _neighbours_alike(coordinates: Floats, classes: Sequence[str], nearest: int = 5) -> float:
    """Return the share of the nearest neighbours that are of the same class."""
    from scipy.spatial import cKDTree

    names = np.asarray(classes)
    nearest = min(nearest, len(coordinates) - 1)
    _, found = cKDTree(coordinates).query(coordinates, k=nearest + 1)
    return float((names[found[:, 1:]] == names[:, None]).mean())


def _alike_by_chance(classes: Sequence[str]) -> float:
    shares = np.asarray(list(Counter(classes).values())) / len(classes)
    return float((shares**2).sum())
