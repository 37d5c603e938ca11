"""What stackers may see beside posteriors: where it comes from, and that it helps where it should."""

from dataclasses import replace

import numpy as np
import pytest

from sercache.cache.store import Cache
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.errors import StackingError
from sercache.evaluation.metrics import macro_f1
from sercache.recipe import StackingRecipe, load_recipe
from sercache.stacking.base import Signature
from sercache.stacking.extras import extra_columns
from sercache.stacking.joining import load_rows
from sercache.stacking.registry import STACKERS, load_stacker
from support.run_builder import make_run

LEARNING = ("logistic", "neural", "soup", "lightgbm")
QUICK = StackingRecipe.model_validate({"neural": {"runs": 2, "epochs": 40}, "lightgbm": {"rounds": 60}})


def with_extras(rows, **columns):
    values = np.column_stack(list(columns.values()))
    return replace(rows, inputs=replace(rows.inputs, extras=tuple(columns), extra_values=values))


def hint(rows, seed=0):
    """Tell apart what the members cannot: whether it is one of the first two classes."""
    noise = np.random.default_rng(seed).normal(size=len(rows))
    return 40.0 + 10.0 * (np.argmax(np.nan_to_num(rows.soft_targets), axis=1) < 2) + noise


@pytest.mark.parametrize("name", LEARNING)
def test_an_extra_that_tells_classes_apart_helps_and_is_given_its_share(simulate, name):
    rows = simulate(skill=0.7, speakers=24, attributes=False).rows()
    half = rows.folds < 2
    scores, shares = [], []
    for version in (rows, with_extras(rows, hint=hint(rows), nothing=np.zeros(len(rows)))):
        stacker = STACKERS[name].from_recipe(QUICK, 0)
        stacker.fit(version.where(half))
        scored = version.where(~half & (version.labels >= 0))
        predicted = stacker.predict(scored.inputs).class_probabilities.argmax(axis=1)
        scores.append(macro_f1(scored.labels, predicted, 4))
        shares.append(stacker.shares_)
    assert scores[1] > scores[0] + 0.05
    assert "extras" not in shares[0]
    assert shares[1]["extras"] > 0.2
    assert sum(shares[1].values()) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(STACKERS))
def test_stackers_with_extras_are_saved_and_want_them_by_name(simulate, tmp_path, name):
    rows = simulate().rows()
    rows = with_extras(rows, length=hint(rows), confidence=np.where(np.arange(len(rows)) % 3, 0.5, np.nan))
    stacker = STACKERS[name].from_recipe(QUICK, 0)
    stacker.fit(rows)
    wanted = stacker.predict(rows.inputs)
    stacker.save(tmp_path)
    swapped = replace(
        rows.inputs, extras=rows.inputs.extras[::-1], extra_values=rows.inputs.extra_values[:, ::-1]
    )
    for either in (stacker, load_stacker(tmp_path)):
        np.testing.assert_allclose(either.predict(swapped).class_probabilities, wanted.class_probabilities)
    without = replace(rows.inputs, extras=(), extra_values=np.empty((len(rows), 0)))
    with pytest.raises(StackingError, match="extras do not match: the posteriors have none; expected are"):
        stacker.predict(without)


def test_extras_are_standardised_on_the_rows_that_are_fitted_on_and_unknown_ones_are_the_mean(simulate):
    rows = simulate().rows()
    values = np.arange(len(rows), dtype=np.float64)
    values[::4] = np.nan
    rows = with_extras(
        rows, known=values, constant=np.full(len(rows), 3.0), unknown=np.full(len(rows), np.nan)
    )
    fit = rows.where(np.arange(len(rows)) < 100)
    arranged = Signature.of(fit.inputs).arrange(rows.inputs).extra_values
    known = fit.inputs.extra_values[:, 0][~np.isnan(fit.inputs.extra_values[:, 0])]
    np.testing.assert_allclose(arranged[1::4, 0], (values[1::4] - known.mean()) / known.std())
    assert (arranged[::4, 0] == 0).all()
    assert (arranged[:, 1:] == 0).all()


@pytest.fixture
def recipe(tmp_path):
    recipe = make_run(tmp_path)
    corpus = read_corpus(recipe.corpus)
    rows = tuple(
        replace(row, extras={"seconds": str(place), "confidence": "" if place == 3 else "0.25", "note": "x"})
        for place, row in enumerate(corpus.utterances)
    )
    write_corpus(replace(corpus, utterances=rows), recipe.corpus)
    return recipe


def asking_for(recipe, *extras):
    return recipe.model_copy(update={"stacking": StackingRecipe(extras=list(extras))})


def test_durations_columns_and_pooled_features_come_by_name(recipe):
    corpus = read_corpus(recipe.corpus)
    asked = asking_for(recipe, "duration", "column:confidence", "pooled:speech")
    names, values = extra_columns(asked, corpus)
    assert names[:3] == ("duration", "column:confidence", "pooled:speech:0")
    np.testing.assert_array_equal(values[:, 0], np.arange(len(corpus)))
    assert np.isnan(values[3, 1])
    assert (np.delete(values[:, 1], 3) == 0.25).all()
    feature_set = Cache(recipe.cache).find(recipe.features["speech"])
    frames = feature_set.frames(corpus.ids[5]).astype(np.float64)
    np.testing.assert_allclose(values[5, 2:], frames.mean(axis=0))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("column:confidenc", r"no column 'confidenc'. Did you mean 'confidence'\?"),
        ("column:note", "column 'note' of utterance 's0/0' is 'x', not a number"),
        ("pooled:speach", r"no feature set 'speach'. Did you mean 'speech'\?"),
        ("loudness", "'loudness' is none of duration, column:<name>, pooled:<feature set>"),
        ("duration:long", "is none of"),
        ("column:", "is none of"),
    ],
)
def test_an_extra_that_is_not_there_is_one_line(recipe, extra, message):
    with pytest.raises(StackingError, match=message):
        extra_columns(asking_for(recipe, extra), read_corpus(recipe.corpus))


def test_a_runs_rows_carry_the_extras_of_its_recipe_row_by_row(simulate, tmp_path):
    simulation = simulate()
    run = simulation.run(tmp_path, extras=["column:loudness"])
    recipe = load_recipe(run.recipe_path)
    rows = [
        replace(row, extras={"loudness": str(float(row.id.removeprefix("u")))})
        for row in simulation.corpus.utterances
    ]
    write_corpus(replace(simulation.corpus, utterances=tuple(rows[::-1])), recipe.corpus)
    joined = load_rows(run)
    assert joined.inputs.extras == ("column:loudness",)
    wanted = [float(row_id.removeprefix("u")) for row_id in joined.inputs.ids]
    np.testing.assert_array_equal(joined.inputs.extra_values[:, 0], wanted)
