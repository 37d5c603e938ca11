from collections import Counter

import numpy as np
import pytest

import sercache.training.loop as loop
from sercache.errors import Interrupted, RecipeError, StackingError
from sercache.events import Context
from sercache.experiments.distillation.distill import run_distillation
from sercache.experiments.distillation.student import DistillationSettings, prepare_distillation
from sercache.experiments.distillation.teacher import find_teacher
from sercache.files import read_json
from sercache.posteriors import Posteriors
from sercache.run import Run, derived_members
from sercache.stacking.comparison import compare
from sercache.training.checkpoint import load_head

SMALL = DistillationSettings(
    features=("speech",), options={"width": 4, "bottleneck": 4}, teacher="logistic", has_control=False
)


def settings(**changes):
    from dataclasses import replace

    return replace(SMALL, **changes)


def students(run, name="distilled-speech"):
    return [(run.fold_folder(name, fold) / "weights.safetensors").read_bytes() for fold in range(3)]


def test_a_student_lies_in_the_run_as_any_member_does_and_its_report_beside_it(in_turn):
    report = run_distillation(prepare_distillation(in_turn, settings(has_control=True)), workers=1)
    roles = [contestant.role for contestant in report.contestants]
    assert roles == ["teacher", "student", "control", "best-single", "baseline"]
    assert report.judged_on == "folds"
    assert report.judged_rows == report.lessons == 72
    assert report.speakers == 8
    assert report.is_leaky
    assert report.kept is None
    assert report.verdict[0].startswith("No conclusion about the student's scores: there is no test split")
    head, description = load_head(in_turn.fold_folder("distilled-speech", 0) / "weights.safetensors")
    assert (description.member, description.head) == ("distilled-speech", "attentive-statistics")
    assert len(Posteriors.load(in_turn.posteriors_path("distilled-speech")).ids) == 72
    student, teacher = report.of("student"), report.of("teacher")
    assert student.parameters == 3 * sum(parameter.numel() for parameter in head.parameters())
    assert (student.encoders, teacher.encoders) == (("speech",), ("speech", "words"))
    written = read_json(in_turn.distillation_path("distilled-speech"))
    assert written["to_teacher"]["value"] == pytest.approx(
        student.scores["macro_f1"].value - teacher.scores["macro_f1"].value
    )
    kinds = {derived_member.name: derived_member.kind for derived_member in derived_members(in_turn)}
    assert kinds == {
        "distilled-speech": "distilled",
        "distilled-speech-votes": "control",
        "linear-baseline": "baseline",
    }


def test_a_distilled_member_is_not_stacked_with_those_it_learned_from(in_turn):
    run_distillation(prepare_distillation(in_turn, SMALL), workers=1)
    assert compare(in_turn).members == ("linear", "words")


def test_no_student_learns_from_a_test_row_or_from_a_speaker_that_it_is_judged_on(held_out, monkeypatch):
    """Recorded from what the loop really was given."""
    seen, steps = {}, loop.Training.steps

    def record(training):
        speakers = [i.split("/")[0] for i in (*training.source.fit.ids, *training.source.stop.ids)]
        seen[training.task] = set(speakers)
        return steps(training)

    monkeypatch.setattr(loop.Training, "steps", record)
    distillation = prepare_distillation(held_out, SMALL)
    assert {utterance_id.split("/")[0] for utterance_id in distillation.teacher.targets.ids} == {
        f"s{k}" for k in range(6)
    }
    report = run_distillation(distillation, workers=1)
    assert (report.judged_on, report.judged_rows, report.speakers) == ("held-out", 18, 2)
    baseline, student = report.of("baseline"), report.of("student")
    assert baseline.encoders == ("speech", "words")
    assert report.to_baseline.value == pytest.approx(
        student.scores["macro_f1"].value - baseline.scores["macro_f1"].value
    )
    assert any("the linear baseline" in sentence for sentence in report.verdict)
    assert "neither teacher nor student learned" in report.verdict[-1]
    table = Posteriors.load(held_out.posteriors_path("distilled-speech"))
    assert Counter(table.origins) == {"out-of-fold": 54, "held-out": 18}
    for utterance_id, fold, origin in zip(table.ids, table.folds, table.origins, strict=True):
        folds = [fold] if origin == "out-of-fold" else range(3)
        assert folds
        for other_fold in folds:
            assert utterance_id.split("/")[0] not in seen[f"distilled-speech/fold-{other_fold}"]


def test_lessons_are_mixed_with_the_votes_where_there_are_any_and_judged_rows_stay_true(in_turn):
    distillation = prepare_distillation(in_turn, settings(votes_share=0.25))
    truth = distillation.data.scored_rows_of(distillation.student)
    mixed = distillation.data.rows_of(distillation.student)
    lessons = distillation.teacher.targets.take(truth.ids)
    rated = np.isfinite(truth.soft).all(axis=1)
    wanted = 0.25 * truth.soft + 0.75 * lessons.class_probabilities
    np.testing.assert_allclose(mixed.soft[rated], wanted[rated])
    unrated = np.isnan(truth.attributes[:, 0])
    assert unrated.any()
    np.testing.assert_allclose(mixed.attributes[unrated], lessons.attribute_values[unrated])
    np.testing.assert_array_equal(mixed.consensus, truth.consensus)
    fewer = mixed.without_some_raters(0.5, np.random.default_rng(0))
    np.testing.assert_allclose(fewer.soft.sum(axis=1), 1)
    assert (fewer.soft >= 0.75 * lessons.class_probabilities - 1e-12).all()


def test_a_lesson_is_what_stackers_say_that_were_fitted_on_other_folds(held_out):
    """Changing what is true of one fold's rows must not change what the teacher says of that fold."""
    teacher = find_teacher(held_out, "logistic")
    crossed = Posteriors.load(held_out.stacker_folder("logistic") / "cross-fitted" / "posteriors.parquet")
    np.testing.assert_array_equal(teacher.targets.class_probabilities, crossed.class_probabilities)
    assert set(teacher.targets.origins) == {"out-of-fold"}
    assert set(teacher.predicted.posteriors.origins) == {"held-out"}


def test_an_interrupted_distillation_ends_where_an_uninterrupted_one_does(in_turn, tmp_path, stacked):
    epochs = []
    distillation = prepare_distillation(in_turn, SMALL)
    with pytest.raises(Interrupted, match="of 3 folds finished"):
        run_distillation(
            distillation,
            workers=1,
            context=Context(
                listener=lambda event: epochs.append(event) if event.kind == "advance" else None,
                should_stop=lambda: len(epochs) >= 2,
            ),
        )
    run_distillation(prepare_distillation(in_turn, SMALL), workers=1)
    import shutil

    shutil.copytree(stacked.root, tmp_path / "other")
    other = Run(tmp_path / "other")
    run_distillation(prepare_distillation(other, SMALL), workers=1)
    assert students(in_turn) == students(other)


def test_the_recipes_own_member_is_the_control_if_it_is_the_same_head(in_turn):
    distillation = prepare_distillation(in_turn, settings(head="mean-linear", options={}, has_control=True))
    assert distillation.control.name == "linear"
    assert distillation.trained == (distillation.student,)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": ("speach",)}, RecipeError, "no feature set 'speach'.*Did you mean 'speech'"),
        ({"head": "lstm"}, RecipeError, "unknown head 'lstm'"),
        ({"options": {"wdith": 3}}, RecipeError, "no option 'wdith'"),
        ({"training": {"epochs": 3}}, RecipeError, "unknown key 'epochs'"),
        ({"name": "linear"}, RecipeError, "already has a member 'linear'"),
        ({"name": "a b"}, RecipeError, "the student's name"),
        ({"votes_share": 1.0}, RecipeError, "votes_share is 1"),
        ({"teacher": "logstic"}, StackingError, "logistic"),
        ({"teacher": "neural"}, StackingError, "there is no 'neural' of these members"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_entered(in_turn, changes, error, message):
    with pytest.raises(error, match=message):
        prepare_distillation(in_turn, settings(**changes))
    assert [derived.kind for derived in derived_members(in_turn)] == ["baseline"]


def test_other_settings_want_another_name(in_turn):
    prepare_distillation(in_turn, SMALL)
    with pytest.raises(RecipeError, match="made with other settings"):
        prepare_distillation(in_turn, settings(votes_share=0.5))
    prepare_distillation(in_turn, settings(votes_share=0.5, name="other"))


def test_a_run_that_was_not_stacked_says_how_to(in_turn):
    in_turn.metrics_path.unlink()
    with pytest.raises(StackingError, match=r"no stacker to learn from yet; first: sercache stack"):
        prepare_distillation(in_turn, SMALL)
