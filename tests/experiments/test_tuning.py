import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaml

from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.errors import CorpusError, Interrupted, RecipeError, TrainingError
from sercache.events import Context
from sercache.experiments.search_space import Dimension
from sercache.experiments.tuning import run_tuning
from sercache.experiments.tuning_design import design_tuning
from sercache.experiments.tuning_report import compare_on_reserved
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.run import Run
from sercache.training.ensemble import train_ensemble
from support.processes import environment
from support.run_builder import CLASSES
from support.tuning_searches import FAST, FUSION, LINEAR, SPACE, small_run, tune

DIVERGING = {"training.stage1.learning_rate": Dimension(choices=[0.01, 1e38])}
SPLIT = ("train",) * 5 + ("development",) + ("test",) * 2


def without_seconds(report):
    """The trials with what the clock says left out; NaN becomes None, which is equal to itself."""
    return [
        replace(trial, seconds=0.0, score=None if math.isnan(trial.score) else trial.score)
        for trial in report.trials
    ]


def stop_once_ended(output, count):
    """True from the first batch after ``count`` trials ended: in the midst of the next one."""
    table = output / "tuning.csv"

    def should_stop():
        ended = len(table.read_text().splitlines()) - 1 if table.exists() else 0
        return ended >= count and (output / "trials" / str(count) / "run.json").exists()

    return should_stop


def test_no_trial_has_a_speaker_of_the_reserve(tmp_path):
    recipe = small_run(tmp_path)
    report = tune(recipe, trials=2)
    reserved = {row.speaker for row in read_corpus(report.output / "reserved.csv").utterances}
    searched = {row.speaker for row in read_corpus(report.output / "search.csv").utterances}
    assert reserved
    assert not reserved & searched
    assert reserved | searched == {f"s{number}" for number in range(8)}
    for number in range(2):
        run = Run(report.output / "trials" / str(number))
        corpus = read_corpus(run.recipe().corpus)
        assert {row.speaker for row in corpus.utterances} == searched
        predicted = Posteriors.load(run.posteriors_path("linear"))
        assert {utterance_id.split("/")[0] for utterance_id in predicted.ids} <= searched
        assert set(predicted.origins) == {"out-of-fold"}
    assert report.reserved_scores.speakers == len(reserved)


def test_a_test_split_is_what_the_result_is_judged_on_and_no_trial_has_it(tmp_path):
    recipe = small_run(tmp_path, splits=SPLIT)
    report = tune(recipe, trials=2)
    assert report.judged_on == "the test split"
    assert {row.speaker for row in read_corpus(report.output / "reserved.csv").utterances} == {"s6", "s7"}
    predicted = Posteriors.load(Run(report.output / "trials" / "0").posteriors_path("linear"))
    assert set(predicted.origins) == {"out-of-fold", "development"}
    assert not {utterance_id.split("/")[0] for utterance_id in predicted.ids} & {"s6", "s7"}


def test_a_test_split_without_labels_judges_nothing_so_speakers_are_set_aside(tmp_path):
    recipe = small_run(tmp_path, splits=SPLIT)
    corpus = read_corpus(recipe.corpus)
    rows = (
        replace(row, votes=(0.0,) * 3, other_votes=0.0) if row.split == "test" else row
        for row in corpus.utterances
    )
    write_corpus(replace(corpus, utterances=tuple(rows)), recipe.corpus)
    design = design_tuning(recipe, space=SPACE)
    everywhere = [row.speaker for row in design.search.utterances + design.reserved.utterances]
    assert not {"s6", "s7"} & set(everywhere)
    assert design.judged_on == "speakers set aside, 20% of the training rows"


def test_the_reserve_follows_from_the_seed_and_spreads_the_classes(tmp_path):
    recipe = small_run(tmp_path)
    first, same = (design_tuning(recipe, space=SPACE, seed=3).reserved for _ in range(2))
    others = [design_tuning(recipe, space=SPACE, seed=seed).reserved.ids for seed in range(4, 9)]
    assert first.ids == same.ids
    assert any(first.ids != other for other in others)
    assert {int(np.argmax(row.votes)) for row in first.utterances} == {0, 1, 2}


def test_the_labels_of_the_test_split_change_the_judgement_and_nothing_else(tmp_path):
    recipe = small_run(tmp_path, splits=SPLIT)
    first = tune(recipe, trials=2)
    corpus = read_corpus(recipe.corpus)
    rows = (
        replace(row, votes=row.votes[1:] + row.votes[:1], attributes=(1.0,)) if row.split == "test" else row
        for row in corpus.utterances
    )
    write_corpus(replace(corpus, utterances=tuple(rows)), recipe.corpus)
    second = tune(recipe, trials=2, output=tmp_path / "other")
    assert without_seconds(first) == without_seconds(second)
    assert first.original_score == second.original_score
    for name in ("own", f"trial-{first.best.number}"):
        before, after = (
            Posteriors.load(Run(report.output / "judged" / name).posteriors_path("linear"))
            for report in (first, second)
        )
        assert np.array_equal(before.class_probabilities, after.class_probabilities)
        assert set(before.take([row.id for row in corpus.utterances if row.split == "test"]).origins) == {
            "held-out"
        }
    assert first.reserved_scores != second.reserved_scores


def test_rows_that_a_model_has_learned_from_judge_nothing(tmp_path):
    recipe = small_run(tmp_path)
    run = train_ensemble(recipe, workers=1).run
    posteriors = Posteriors.load(run.posteriors_path("linear"))
    with pytest.raises(TrainingError, match="has learned from rows that it is evaluated on"):
        compare_on_reserved(read_corpus(recipe.corpus), posteriors, posteriors, samples=100, seed=0)


def test_an_interrupted_search_ends_like_one_that_was_not(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = tune(small_run(tmp_path / "whole"), trials=14)
    recipe = small_run(tmp_path / "halves")
    output = tmp_path / "halves" / "run-tuning"
    for ended in (0, 3, 12):  # before and after the sampler begins to learn
        with pytest.raises(Interrupted, match=f"stopped with {ended} of 14 trials ended; the same command"):
            tune(recipe, trials=14, context=Context(should_stop=stop_once_ended(output, ended)))
    resumed = tune(recipe, trials=14)
    assert without_seconds(resumed) == without_seconds(whole)
    assert resumed.reserved_scores == whole.reserved_scores
    assert resumed.verdict == whole.verdict


def test_more_trials_go_on_from_those_that_are_there(tmp_path):
    recipe = small_run(tmp_path)
    first = tune(recipe, trials=2)
    more = tune(recipe, trials=4)
    assert more.trials[:2] == first.trials
    assert len(more.trials) == 4
    assert tune(recipe, trials=4).trials == more.trials


def test_a_later_best_trial_is_judged_on_rows_that_judged_before_and_says_so(tmp_path):
    recipe = small_run(tmp_path)
    first = tune(recipe, trials=1)
    (first.output / "judged" / "trial-77").mkdir()
    report = tune(recipe, trials=1)
    assert report.earlier_evaluations == 1
    assert "1 earlier best trial was evaluated on the same rows:" in " ".join(report.verdict)


def test_the_trial_in_flight_keeps_its_settings(tmp_path):
    """They are on disk before it begins: another Optuna would suggest other ones."""
    recipe = small_run(tmp_path)
    output = tmp_path / "run-tuning"
    with pytest.raises(Interrupted):
        tune(recipe, context=Context(should_stop=stop_once_ended(output, 1)))
    path = output / "trials" / "1" / "settings.json"
    in_flight = json.loads(path.read_text())
    report = tune(recipe)
    assert dict(report.trials[1].settings) == in_flight


@pytest.mark.slow
def test_a_killed_search_ends_like_one_that_was_not(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    training = {**FAST, "stage1": {"epochs": 20, "learning_rate": 0.01}}
    whole = tune(small_run(tmp_path / "whole", training=training), trials=6)
    recipe = small_run(tmp_path / "killed", training=training)
    script = (
        "from pathlib import Path; from sercache.recipe import load_recipe\n"
        "from support.tuning_searches import tune\n"
        f"tune(load_recipe(Path({str(tmp_path / 'killed' / 'recipe.yaml')!r})), trials=6)"
    )
    for number in (0, 2, 5):
        process = subprocess.Popen([sys.executable, "-c", script], env=environment())
        state = tmp_path / "killed" / "run-tuning" / "trials" / str(number)
        deadline = time.monotonic() + 120
        while not list(state.rglob("*.safetensors")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    resumed = tune(recipe, trials=6)
    assert without_seconds(resumed) == without_seconds(whole)
    assert resumed.reserved_scores == whole.reserved_scores


def test_the_study_is_json_lines(tmp_path):
    report = tune(small_run(tmp_path), trials=2)
    lines = (report.output / "study.log").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert len(lines) == 1 + 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, r"another search \(seed\)"),
        ({"space": {**SPACE, "training.patience": Dimension(low=4, high=8, step=4)}},
         r"another search .*space.*training.patience.*high"),
        ({"folds": 3}, r"another recipe .*folds.*count"),
        ({"reserve": 0.4}, r"another search \(judged_on\)"),
    ],
)  # fmt: skip
def test_the_folder_of_another_search_is_refused(tmp_path, changes, named):
    recipe = small_run(tmp_path)
    output = tune(recipe, trials=1).output
    before = (output / "study.log").read_bytes()
    with pytest.raises(RecipeError, match=named):
        tune(recipe, trials=2, **changes)
    assert (output / "study.log").read_bytes() == before


def test_the_folder_of_another_recipe_or_of_a_run_is_refused(tmp_path):
    recipe = small_run(tmp_path)
    tune(recipe, trials=1)
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"patience": 3})})
    with pytest.raises(RecipeError, match=r"another recipe .*training.*patience"):
        tune(other, trials=1)
    train_ensemble(recipe, workers=1)
    with pytest.raises(RecipeError, match="holds a run with another"):
        tune(recipe, output=recipe.output)


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(tmp_path):
    recipe = small_run(tmp_path)
    report = tune(recipe, space=DIVERGING, trials=5)
    failed = [trial for trial in report.trials if trial.state == "failed"]
    assert failed
    for trial in failed:
        assert trial.settings["training.stage1.learning_rate"] == 1e38
        assert trial.note.startswith("linear/fold-0: the loss")
        assert math.isnan(trial.score)
    assert report.best.state == "trained"
    rows = list(csv.DictReader((report.output / "tuning.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["state"] for row in rows] == [trial.state for trial in report.trials]
    assert [row["macro_f1"] == "" for row in rows] == [row["state"] == "failed" for row in rows]
    again = tune(recipe, space=DIVERGING, trials=5)
    assert without_seconds(again) == without_seconds(report)


def test_settings_that_do_not_go_together_fail_their_trial_only(tmp_path):
    recipe = small_run(tmp_path, members=[FUSION])
    space = {
        "options.attention_heads": Dimension(choices=[2, 4]),
        "options.width": Dimension(choices=[8, 9, 11]),
    }
    report = tune(recipe, space=space, trials=6)
    failed = [trial for trial in report.trials if trial.state == "failed"]
    assert 0 < len(failed) < 6
    assert all(trial.settings["options.width"] != 8 for trial in failed)
    assert "not a multiple of attention_heads" in failed[0].note


def test_when_every_trial_fails_the_reason_is_told(tmp_path):
    space = {"training.stage1.learning_rate": Dimension(choices=[1e38, 2e38])}
    with pytest.raises(
        TrainingError, match="none of 2 trials could be trained; the first: linear/fold-0: the loss"
    ):
        tune(small_run(tmp_path), space=space, trials=2)


def test_a_recipe_that_cannot_be_trained_is_told_before_the_search(tmp_path):
    training = {"stage1": {"epochs": 1, "learning_rate": 1e38}, "gradient_clip": None}
    recipe = small_run(tmp_path, training=training)
    with pytest.raises(TrainingError, match="the recipe as it is cannot be trained: linear/fold-0: the loss"):
        tune(recipe)
    assert not (tmp_path / "run-tuning" / "trials").exists()


def test_only_the_best_trial_keeps_its_weights_and_all_keep_their_history(tmp_path):
    report = tune(small_run(tmp_path))
    assert report.trials
    for trial in report.trials:
        folder = report.output / "trials" / str(trial.number)
        assert len(list(folder.rglob("history.csv"))) == 2
        assert len(list(folder.rglob("weights.safetensors"))) == (2 if trial == report.best else 0)
    assert not list(report.output.rglob("state.safetensors"))


def test_when_time_is_up_no_trial_is_begun(tmp_path):
    recipe = small_run(tmp_path)
    design = design_tuning(recipe, space=SPACE)
    with pytest.raises(TrainingError, match="time was up before the first trial"):
        run_tuning(design, timeout_seconds=0.0, workers=1)
    tune(recipe, trials=2)
    events = []
    report = run_tuning(
        design, trials=9, timeout_seconds=0.0, workers=1, context=Context(listener=events.append)
    )
    assert len(report.trials) == 2
    assert "time is up after 2 of 9 trials; the same command goes on" in [event.message for event in events]


def test_progress_is_told_in_events(tmp_path):
    events = []
    report = tune(small_run(tmp_path), trials=2, context=Context(listener=events.append))
    lines = [event.message for event in events if event.task == "trials" and event.kind == "note"]
    assert [line.split(":")[0] for line in lines] == ["trial 0", "trial 1"]
    assert f"(best {report.best.score:.3f}, trial {report.best.number})" in lines[-1]
    assert [event.done for event in events if event.task == "trials" and event.kind == "advance"] == [1, 2]


def test_best_yaml_is_the_recipe_with_the_found_settings_and_trains(tmp_path):
    linear = {**LINEAR, "training": {"mixup": {"alpha": 0.3}}}
    recipe = small_run(tmp_path, members=[FUSION, linear])
    report = tune(recipe, member="linear", trials=2)
    best = load_recipe(report.best_path)
    found = best.members[1]
    settings = report.best.settings
    trained = best.training_of(found)
    assert trained.stage1.learning_rate == settings["training.stage1.learning_rate"]
    assert trained.mixup.probability == settings["training.mixup.probability"]
    assert trained.mixup.alpha == 0.3
    assert trained.stage1.epochs == 1
    assert found.options["deviation"] == settings["options.deviation"]
    assert best.members[0] == recipe.members[0]
    assert best.training == recipe.training
    assert best.folds == recipe.folds
    assert best.output == (tmp_path / "run-tuned").resolve()
    only = best.model_copy(update={"members": [found]})
    assert train_ensemble(only, workers=1).members[0].macro_f1 >= 0


def test_classes_of_the_recipe_are_those_of_the_search(tmp_path):
    report = tune(small_run(tmp_path, classes=["Happy", "Angry"]), trials=1)
    assert Posteriors.load(Run(report.output / "trials/0").posteriors_path("linear")).classes == (
        "Happy",
        "Angry",
    )
    written = json.loads((report.output / "tuning.json").read_text())
    assert written["verdict"] == list(report.verdict)
    assert written["best"]["settings"] == dict(report.best.settings)


@pytest.mark.parametrize(
    ("planned", "error", "message"),
    [
        ({"member": "lineal"}, RecipeError, r"no member 'lineal' .*Did you mean 'linear'\?"),
        ({"folds": 1}, RecipeError, "needs at least 2"),
        ({"reserve": 1.0}, RecipeError, "must lie above 0 and be at most 0.5"),
        ({"space": {}}, RecipeError, "nothing to search"),
    ],
)
def test_what_cannot_be_planned_is_refused(tmp_path, planned, error, message):
    with pytest.raises(error, match=message):
        design_tuning(small_run(tmp_path), **{"space": SPACE, **planned})


def test_a_corpus_without_any_consensus_cannot_judge(tmp_path):
    recipe = small_run(tmp_path)
    corpus = read_corpus(recipe.corpus)
    rows = (replace(row, votes=(1.0,) * len(CLASSES), other_votes=0.0) for row in corpus.utterances)
    write_corpus(replace(corpus, utterances=tuple(rows)), recipe.corpus)
    with pytest.raises(CorpusError, match="consensus class, so that nothing could be scored"):
        design_tuning(recipe, space=SPACE)


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    recipe = small_run(tmp_path)
    design = design_tuning(recipe, space=SPACE)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"pip install 'sercache\[tune\]'"):
        run_tuning(design)
    assert not design.output.exists()


def test_the_written_recipe_is_plain_yaml(tmp_path):
    report = tune(small_run(tmp_path), trials=1)
    assert yaml.safe_load(report.best_path.read_text())["members"][0]["name"] == "linear"


def test_the_best_trial_is_held_against_a_linear_baseline_on_the_same_rows(tmp_path):
    report = tune(small_run(tmp_path), trials=2)
    run = Run(report.output / "judged" / "own")
    reserved = read_corpus(report.output / "reserved.csv")
    found = Posteriors.load(
        Run(report.output / "judged" / f"trial-{report.best.number}").posteriors_path("linear")
    )
    judged = compare_on_reserved(
        reserved, Posteriors.load(run.posteriors_path("linear-baseline")), found, samples=2000, seed=0
    )
    assert report.reserved_scores.baseline.value == pytest.approx(judged.found.value)
    assert report.reserved_scores.to_baseline.value == pytest.approx(-judged.difference.value)
    assert "The linear baseline on the same features has macro-F1 " in " ".join(report.verdict)
    assert 0 <= report.baseline_score <= 1
    written = json.loads(report.json_path.read_text())["baseline"]
    assert written["macro_f1"]["value"] == pytest.approx(report.reserved_scores.baseline.value)
    trials = report.output / "trials"
    assert not list(trials.glob("*/members/linear-baseline")), "no trial fits it again"
