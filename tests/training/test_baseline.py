"""The baseline of a run: which member it is, that it comes first, and what it says of the members."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from sercache.engines.task_range import TaskRange
from sercache.errors import Interrupted, TrainingError
from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.events import Context
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe
from sercache.run import Run, derived_members
from sercache.training import baseline
from sercache.training.baseline import enter_baseline, find_baseline, members_above
from sercache.training.data import open_run
from sercache.training.ensemble import train_ensemble, train_ensemble_part
from support.run_builder import make_run

QUICK = {"batch_size": 8, "stage1": {"epochs": 1}, "stage2": {"epochs": 0}}
WEAK = {"name": "weak", "head": "mean-linear", "features": ["words"], "training": QUICK}
RIDGE = {"name": "simple", "head": "ridge", "features": ["words", "speech"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose only member has hardly learned anything, and the events of its training."""
    events = []
    recipe = make_run(tmp_path_factory.mktemp("baseline"), members=[WEAK])
    return train_ensemble(recipe, workers=1, context=Context(listener=events.append)), events


def test_its_score_is_told_before_anything_else_is_planned_or_trained(trained):
    report, events = trained
    scores = [event for event in events if event.kind == "score"]
    assert scores[0].task == "linear-baseline"
    assert scores[0].message == report.baseline.sentence
    place = events.index(scores[0])
    assert all(event.kind == "advance" and "pooling" in event.task for event in events[:place])
    assert [event.task for event in scores[1:]] == ["weak"]
    assert report.baseline.seconds > 0
    assert f"macro-F1 {report.baseline.score.value:.3f} [" in report.baseline.sentence


def test_scores_and_differences_are_those_of_the_written_posteriors(trained):
    report, _ = trained
    data = open_run(report.run.root)
    tables = [Posteriors.load(report.run.posteriors_path(name)) for name in ("linear-baseline", "weak")]
    labels = data.rows.select(tables[0].ids).consensus
    known = labels >= 0
    predicted = [table.take(tables[0].ids).class_probabilities.argmax(axis=1)[known] for table in tables]
    scores = [f1_score(labels[known], classes, average="macro") for classes in predicted]
    assert report.baseline.score.value == pytest.approx(scores[0])
    assert report.baseline.uar.value == pytest.approx(
        recall_score(labels[known], predicted[0], average="macro")
    )
    assert report.baseline.score.low <= scores[0] <= report.baseline.score.high
    assert report.baseline.differences["weak"].value == pytest.approx(scores[1] - scores[0])


def test_a_member_that_is_not_above_it_is_named_in_the_sentence(trained):
    report, _ = trained
    difference = report.baseline.differences["weak"]
    assert difference.value < 0
    assert report.baseline.verdict == (
        f"The only member is not above the baseline (macro-F1 {report.baseline.score.value:.3f} "
        f"[{report.baseline.score.low:.3f}, {report.baseline.score.high:.3f}]): "
        f"weak ({difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}])."
    )


def test_it_reads_everything_that_the_members_read_and_is_not_a_member(trained):
    report, _ = trained
    (derived,) = derived_members(report.run)
    assert (derived.kind, derived.member.head, derived.member.features) == ("baseline", "ridge", ["words"])
    assert [member.name for member in report.members] == ["weak"]
    assert report.baseline.is_in_recipe is False


def test_every_row_was_predicted_by_the_model_of_its_own_fold(trained):
    report, _ = trained
    table = Posteriors.load(report.run.posteriors_path("linear-baseline"))
    assert set(table.origins) == {"out-of-fold"}
    assert (table.folds == open_run(report.run.root).folds.of(table.ids)).all()


def test_a_member_in_closed_form_that_reads_everything_is_the_baseline(tmp_path):
    events = []
    recipe = make_run(tmp_path, members=[WEAK, RIDGE])
    report = train_ensemble(recipe, workers=1, context=Context(listener=events.append))
    assert report.baseline.member.name == "simple"
    assert report.baseline.is_in_recipe
    assert derived_members(report.run) == []
    assert {path.name for path in (report.run.root / "members").iterdir()} == {"weak", "simple"}
    assert set(report.baseline.differences) == {"weak"}
    assert report.members[1].macro_f1 == pytest.approx(report.baseline.score.value)
    finished = [event.task for event in events if event.kind == "finish"]
    assert sorted(finished) == sorted(set(finished)), "each fold is told of once"
    assert [event.task for event in events if event.kind == "score"] == ["simple", "weak"]


@pytest.mark.parametrize(
    ("member", "is_baseline"),
    [
        (RIDGE, True),
        ({**RIDGE, "head": "logistic"}, True),
        ({**RIDGE, "features": ["speech"]}, False),
        ({**RIDGE, "head": "mean-linear"}, False),
    ],
)
def test_only_a_closed_form_over_all_features_is_a_baseline(tmp_path, member, is_baseline):
    recipe = make_run(tmp_path, members=[WEAK, {**WEAK, "name": "other", "features": ["speech"]}, member])
    assert (find_baseline(recipe) is not None) is is_baseline


def test_a_run_from_before_baselines_gets_one_and_is_the_same_run(tmp_path):
    recipe = make_run(tmp_path, members=[WEAK])
    before = train_ensemble(recipe, workers=1, with_baseline=False)
    assert before.baseline is None
    assert not (before.run.root / "members" / "linear-baseline").exists()
    described = json.loads(before.run.description_path.read_text())
    posteriors = before.run.posteriors_path("weak").read_bytes()
    after = train_ensemble(recipe, workers=1)
    assert after.baseline.score.value > 0.5
    assert json.loads(before.run.description_path.read_text()) == described
    assert before.run.posteriors_path("weak").read_bytes() == posteriors
    again = train_ensemble(recipe, workers=1)
    assert np.isnan(again.baseline.seconds)
    assert ", in " not in again.baseline.sentence


def test_members_are_the_same_bits_with_and_without_it(tmp_path):
    weights = []
    for with_baseline in (True, False):
        folder = tmp_path / str(with_baseline)
        folder.mkdir()
        run = train_ensemble(make_run(folder, members=[WEAK]), workers=1, with_baseline=with_baseline).run
        weights.append([path.read_bytes() for path in sorted(run.root.glob("members/weak/*/*.safetensors"))])
    assert weights[0]
    assert weights[0] == weights[1]


def test_a_name_that_the_recipe_has_gets_a_number(tmp_path):
    recipe = make_run(tmp_path, members=[{**WEAK, "name": "linear-baseline"}])
    run = train_ensemble(recipe, workers=1).run
    assert [derived.name for derived in derived_members(run)] == ["linear-baseline-2"]


@pytest.mark.parametrize(("rows", "options"), [(20_000, {}), (20_001, {"statistics": "mean+deviation"})])
def test_of_many_rows_it_reads_fewer_statistics(tmp_path, rows, options):
    recipe = make_run(tmp_path, members=[WEAK])
    run = Run(tmp_path / "new")
    run.start(recipe, {})
    member = enter_baseline(run, recipe, rows)
    assert member == MemberRecipe(name="linear-baseline", head="ridge", features=["words"], options=options)
    assert enter_baseline(run, recipe, 5) == member, "what is entered stays"


def test_where_it_cannot_be_fitted_one_line_says_why_and_the_run_goes_on(tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise TrainingError("no member could be trained; linear-baseline: it does not fit into memory")

    monkeypatch.setattr(baseline, "train_members", fail)
    warnings = []
    report = train_ensemble(
        make_run(tmp_path, members=[WEAK]),
        workers=1,
        context=Context(
            listener=lambda event: warnings.append(event.message) if event.kind == "warning" else None
        ),
    )
    assert report.baseline is None
    assert report.members[0].error == ""
    assert len(warnings) == 1
    assert "it does not fit into memory" in warnings[0]


def test_an_interrupted_baseline_is_an_interrupted_run_that_goes_on(tmp_path):
    recipe = make_run(tmp_path, members=[WEAK])
    with pytest.raises(Interrupted):
        train_ensemble(recipe, workers=1, context=Context(should_stop=lambda: True))
    assert train_ensemble(recipe, workers=1).baseline is not None


def test_the_part_that_has_the_first_task_fits_it(tmp_path):
    recipe = make_run(tmp_path, members=[WEAK])
    path = Run(recipe.output).posteriors_path("linear-baseline")
    train_ensemble_part(recipe, TaskRange(2, 2), workers=1)
    assert not path.exists()
    train_ensemble_part(recipe, TaskRange(1, 2), workers=1)
    assert path.is_file()


def difference(value, low, high, p_value):
    return Difference(value, low, high, p_value)


def test_the_sentence_counts_and_names_those_that_are_not_clearly_above():
    estimate = Estimate(0.5, 0.4, 0.6)
    clear, level = difference(0.1, 0.05, 0.15, 0.001), difference(0.01, -0.02, 0.04, 0.5)
    corrected_away = difference(0.04, 0.01, 0.07, 0.09)
    assert members_above({"a": clear, "b": clear}, estimate) == (
        "All 2 members are above the baseline (macro-F1 0.500 [0.400, 0.600])."
    )
    assert "1 of 2 members is not above the baseline" in members_above({"a": clear, "b": level}, estimate)
    sentence = members_above({"a": clear, "b": level, "c": corrected_away}, estimate)
    assert sentence.startswith("2 of 3 members are not above the baseline")
    assert sentence.endswith("b (+0.010 [-0.020, +0.040]), c (+0.040 [+0.010, +0.070], p = 0.090).")
    unknown = Estimate(float("nan"), float("nan"), float("nan"))
    assert members_above({"a": clear}, unknown).startswith("No row has a consensus class")
    alone = difference(0.1, float("nan"), float("nan"), float("nan"))
    assert "a (+0.100)" in members_above({"a": alone}, Estimate(0.5, float("nan"), float("nan")))
