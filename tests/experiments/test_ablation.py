import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_ind

from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.corpus.targets import consensus
from sercache.errors import RecipeError, TrainingError
from sercache.evaluation.bootstrap import Difference, SpeakerBootstrap, holm
from sercache.evaluation.metrics import macro_f1
from sercache.events import Context
from sercache.experiments.ablation import evaluate_ablation, run_ablation, seed_p_values
from sercache.experiments.ablation_design import design_ablation
from sercache.experiments.ablation_report import AblationReport, VariantResult, as_json
from sercache.experiments.variants import VARIANTS, Variant
from sercache.posteriors import Posteriors
from sercache.recipe import Recipe, load_recipe
from sercache.run import Run
from sercache.seeds import derive_seed
from sercache.training.ensemble import EnsembleReport
from sercache.training.members import MemberReport
from support.run_builder import make_corpus, make_run, write_features, write_recipe

OPTIONS = {"width": 8, "feedforward": 8, "dropout": 0.2}
FUSION = {"name": "fusion", "features": ["speech", "words"], "options": OPTIONS}
LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"]}
FAST = {
    "batch_size": 16,
    "stage1": {"epochs": 2, "learning_rate": 0.01},
    "stage2": {"epochs": 1, "learning_rate": 0.003},
}
SMALL = {"training": FAST, "folds": {"count": 2, "inner_share": 0.25}}


def test_each_variant_changes_only_what_it_says(tmp_path):
    training = {"stage1": {"learning_rate": 0.02}, "mixup": {"alpha": 0.3}}
    member = {**FUSION, "seed": 5, "training": training, "targets": {"secondary_weight": 0.5}}
    recipe = make_run(tmp_path, members=[LINEAR, member])
    design = design_ablation(recipe, seeds=2)
    assert design.skipped == {}
    by_name = {ablated.name: ablated for ablated in design.recipe.members}
    assert list(by_name) == [f"{variant}-seed{seed}" for variant in ("full", *VARIANTS) for seed in (0, 1)]
    changed = {
        "hard-targets": {"targets.hard": True},
        "late-fusion": {"head": "late-fusion"},
        "no-mixup": {"training.mixup.probability": 0.0},
        "no-multitask": {"training.attribute_weight": 0.0},
        "no-stage-2": {"training.stage1.epochs": 7, "training.stage2.epochs": 0},
        "no-agreement-dropped": {"targets.no_agreement": "drop", "training.no_agreement_share": 0.0},
        "no-class-weights": {"training.balance_exponent": 0.0},
        "speaker-normalization": {"training.normalize": "speaker"},
    }
    assert set(changed) == set(VARIANTS)
    for seed in (0, 1):
        full = _resolved(design.recipe, by_name[f"full-seed{seed}"])
        assert full == _resolved(recipe, recipe.members[1]) | {"seed": 5 + seed}
        for variant, expected in changed.items():
            assert _resolved(design.recipe, by_name[f"{variant}-seed{seed}"]) == full | expected
    assert Recipe.model_validate(design.recipe.model_dump()) == design.recipe
    assert design.recipe.output == recipe.output.with_name("run-ablation")
    assert design.recipe.stacking == recipe.stacking


def _resolved(recipe, member):
    """All that decides how a member trains, flat."""
    settings = {
        "head": member.head,
        "features": member.features,
        "options": member.options,
        "seed": member.seed,
        "training": recipe.training_of(member).model_dump(),
        "targets": recipe.targets_of(member).model_dump(),
    }
    return _flat(settings)


def _flat(settings, prefix=""):
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def test_variants_that_would_change_nothing_are_skipped_with_a_reason(tmp_path):
    corpus = make_corpus(tmp_path)
    rows = tuple(
        replace(utterance, votes=tuple(np.eye(3)[row % 3]), other_votes=0.0, attributes=())
        for row, utterance in enumerate(corpus.utterances)
    )
    corpus = replace(corpus, attributes=(), utterances=rows)
    write_corpus(corpus, tmp_path / "corpus.csv")
    write_features(tmp_path, corpus)
    plain = {"stage1": {"epochs": 2}, "stage2": {"epochs": 0}, "mixup": {"probability": 0}}
    make_recipe = {"members": [{**FUSION, "features": ["speech"]}], "training": plain}
    recipe = load_recipe(write_recipe(tmp_path, **make_recipe))
    design = design_ablation(recipe)
    assert design.trained == ("no-class-weights", "speaker-normalization")
    reasons = {
        "hard-targets": "same soft and hard target",
        "late-fusion": "one feature set",
        "no-mixup": "no MixUp",
        "no-multitask": "no attributes",
        "no-stage-2": "no stage 2",
        "no-agreement-dropped": "no training row lacks agreement",
    }
    assert set(design.skipped) == set(reasons)
    for name, reason in reasons.items():
        assert reason in design.skipped[name]
    with pytest.raises(
        RecipeError, match=r"no variant would change anything.*no-mixup: the recipe has no MixUp"
    ):
        design_ablation(recipe, variants=["no-mixup", "no-stage-2"])


def test_settings_that_are_off_already_are_skipped(tmp_path):
    off = {**FAST, "stage1": {"epochs": 0}, "attribute_weight": 0}
    targets = {"hard": True, "no_agreement": "drop"}
    recipe = make_run(tmp_path, members=[LINEAR], training=off, targets=targets)
    design = design_ablation(recipe, member="linear")
    assert design.trained == ("no-mixup", "no-stage-2", "speaker-normalization")
    assert design.skipped["late-fusion"] == "the head 'mean-linear' has no deep fusion"
    assert "already" in design.skipped["hard-targets"]
    assert "already" in design.skipped["no-multitask"]
    assert "already" in design.skipped["no-agreement-dropped"]
    assert "no stage 1" in design.skipped["no-class-weights"]
    without_classes = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"class_weight": 0.0, "attribute_weight": 1.0})}
    )
    assert (
        "nothing would be left" in design_ablation(without_classes, member="linear").skipped["no-multitask"]
    )


def test_speaker_normalisation_is_switched_to_what_the_recipe_does_not_do(tmp_path):
    recipe = make_run(tmp_path, members=[{**FUSION, "training": {"normalize": "speaker"}}])
    design = design_ablation(recipe, seeds=1, variants=["speaker-normalization"])
    switched = {member.name: design.recipe.training_of(member).normalize for member in design.recipe.members}
    assert switched == {"full-seed0": "speaker", "speaker-normalization-seed0": "none"}
    corpus = make_corpus(tmp_path)
    nobody = tuple(replace(utterance, speaker=None) for utterance in corpus.utterances)
    write_corpus(replace(corpus, utterances=nobody), tmp_path / "corpus.csv")
    skipped = design_ablation(load_recipe(write_recipe(tmp_path))).skipped
    assert skipped == {"speaker-normalization": "no speaker is known by 3 clips"}


def test_unrated_attributes_leave_no_multitask_out(tmp_path):
    corpus = make_corpus(tmp_path)
    unrated = tuple(replace(utterance, attributes=(np.nan,)) for utterance in corpus.utterances)
    write_corpus(replace(corpus, utterances=unrated), tmp_path / "corpus.csv")
    design = design_ablation(load_recipe(write_recipe(tmp_path)))
    assert design.skipped == {"no-multitask": "no training row has a rated attribute"}


def test_wrong_wishes_are_recipe_errors_that_name_what_there_is(tmp_path):
    recipe = make_run(tmp_path, members=[LINEAR])
    with pytest.raises(RecipeError, match=r"no member with the head 'deepser'.*members: linear.*--member"):
        design_ablation(recipe)
    with pytest.raises(RecipeError, match=r"no member 'linaer'.*Did you mean 'linear'\?"):
        design_ablation(recipe, member="linaer")
    with pytest.raises(RecipeError, match=r"unknown variant 'no-mixop'.*Did you mean 'no-mixup'\?"):
        design_ablation(recipe, member="linear", variants=["no-mixop"])
    with pytest.raises(RecipeError, match="seeds is 0"):
        design_ablation(recipe, member="linear", seeds=0)


def test_differences_and_intervals_are_those_of_an_oracle_that_scores_rows(tmp_path):
    """Made-up posteriors of three members, of which one misses a row."""
    corpus = make_corpus(tmp_path)
    recipe = load_recipe(write_recipe(tmp_path, stacking={"bootstrap_samples": 300}))
    design = design_ablation(
        recipe, seeds=2, variants=["no-stage-2", "hard-targets"], output=tmp_path / "out"
    )
    generator = np.random.default_rng(3)
    labels = np.where(consensus(corpus) < 0, 0, consensus(corpus))
    predicted = {}
    for number, member in enumerate(design.recipe.members):
        is_guess = generator.random(len(corpus)) < 0.2 + 0.1 * number
        predicted[member.name] = np.where(is_guess, generator.integers(0, 3, len(corpus)), labels)
        keep = [row for row in range(len(corpus)) if number != 3 or row != 4]
        order = generator.permutation(keep)
        _posteriors(corpus, member.name, predicted[member.name], order).save(
            Run(tmp_path / "out").posteriors_path(member.name)
        )
    report = evaluate_ablation(design, _trained(design))
    judged = np.flatnonzero((consensus(corpus) >= 0) & (np.arange(len(corpus)) != 4))
    assert report.rows == len(judged) == 63
    assert report.speakers == 8
    bootstrap = SpeakerBootstrap(
        [corpus.utterances[row].speaker for row in judged], 300, derive_seed(recipe.seed, "bootstrap")
    )

    def mean_f1(variant):
        def score(rows):
            drawn = judged[rows]
            return np.mean(
                [macro_f1(labels[drawn], predicted[f"{variant}-seed{k}"][drawn], 3) for k in (0, 1)]
            )

        return score

    everything = np.arange(len(judged))
    full, full_draws = mean_f1("full")(everything), bootstrap.replicates_of(mean_f1("full"))
    p_values = []
    for result in report.variants:
        value = mean_f1(result.name)(everything) - full
        draws = bootstrap.replicates_of(mean_f1(result.name)) - full_draws
        assert result.score == pytest.approx(full + value)
        assert result.difference.value == pytest.approx(value)
        assert (result.difference.low, result.difference.high) == pytest.approx(bootstrap.interval(draws))
        assert result.difference.p_value == pytest.approx(bootstrap.p_value(draws))
        assert result.relative.value == pytest.approx(value / full)
        assert (result.relative.low, result.relative.high) == pytest.approx(
            bootstrap.interval(draws / full_draws)
        )
        p_values.append(result.difference.p_value)
    assert [variant.name for variant in report.variants] == ["hard-targets", "no-stage-2"]
    assert [variant.p_speakers for variant in report.variants] == pytest.approx(holm(p_values))


def _posteriors(corpus, member, predicted, order):
    return Posteriors(
        member,
        tuple(corpus.ids[row] for row in order),
        corpus.classes[::-1],  # another order of columns: they are matched by name
        (),
        np.eye(len(corpus.classes))[predicted[order]][:, ::-1],
        np.empty((len(order), 0)),
        np.zeros(len(order), dtype=np.int64),
        np.full(len(order), "out-of-fold"),
        "0",
    )


def _trained(design, errors=None):
    members = tuple(
        MemberReport(
            member.name,
            member.head,
            tuple(member.features),
            0,
            0,
            0.0,
            0.0,
            (errors or {}).get(member.name, ""),
        )
        for member in design.recipe.members
    )
    return EnsembleReport(Run(design.recipe.output), members, 3, 0.0, "as planned")


def test_the_luck_of_seeds_is_a_pooled_t_test():
    generator = np.random.default_rng(0)
    full, first, two = generator.normal(size=(3, 4))
    assert seed_p_values(full, [first]) == pytest.approx([ttest_ind(first, full).pvalue])
    pooled = seed_p_values(full, [first, two])
    variance = np.mean([group.var(ddof=1) for group in (full, first, two)])
    expected = 2 * t.sf(abs(two.mean() - full.mean()) / np.sqrt(variance / 2), 9)
    assert pooled[1] == pytest.approx(expected)
    assert np.isnan(seed_p_values([0.4], [[0.5]])).all()
    assert seed_p_values([0.4, 0.4], [[0.5, 0.5], [0.4, 0.4]]) == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("seeds", [2, 4])
def test_differences_by_chance_are_seldom_called_clear(seeds):
    """Speakers alone would call the luck of a seed a finding."""
    generator = np.random.default_rng(seeds)
    by_chance = [seed_p_values(*_split(generator.normal(size=(8, seeds)))) for _ in range(400)]
    assert np.mean([holm(p_values).min() < 0.05 for p_values in by_chance]) < 0.08


def _split(groups):
    return groups[0], list(groups[1:])


def test_it_trains_compares_writes_and_does_nothing_twice(tmp_path):
    recipe = make_run(tmp_path, **SMALL)
    design = design_ablation(recipe, seeds=2, variants=["no-mixup", "hard-targets", "no-stage-2"])
    report = run_ablation(design, device="cpu", workers=1)
    assert report.member == "fusion"
    assert report.rows == 64  # 72 utterances, of which 8 tie
    lines = list(csv.DictReader(report.csv_path.read_text().splitlines()))
    assert [line["variant"] for line in lines] == [
        "full",
        "hard-targets",
        "no-mixup",
        "no-stage-2",
        "baseline",
    ]
    assert [line["paper_relative"] for line in lines] == ["", "-0.082", "-0.029", "-0.012", ""]
    content = json.loads(report.json_path.read_text())
    assert content["verdict"] == list(report.verdict)
    for described, result in zip(content["variants"], (report.full, *report.variants), strict=True):
        assert described["macro_f1"] == pytest.approx(np.mean(described["macro_f1_by_seed"]))
        assert described["macro_f1_sd"] == pytest.approx(np.std(described["macro_f1_by_seed"], ddof=1))
        assert described["macro_f1"] == result.score
    weights = {path: path.stat().st_mtime_ns for path in report.run.root.rglob("weights.safetensors")}
    assert len(weights) == 4 * 2 * 2 + 2  # and the baseline's
    events = []
    again = run_ablation(design, device="cpu", workers=1, context=Context(listener=events.append))
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert {event.kind for event in events} == {"finish", "score"}
    with pytest.raises(RecipeError, match="holds a run with another recipe"):
        run_ablation(design_ablation(recipe, seeds=3, variants=["no-mixup"]), device="cpu", workers=1)


def test_an_ingredient_that_does_all_the_work_pays_and_one_that_does_none_is_not_told_from_nothing(tmp_path):
    """Stage 1 hardly moves here, so all is learned in stage 2, and stage 1's class weights do nothing."""
    slow_start = {**FAST, "stage1": {"epochs": 1, "learning_rate": 1e-7}}
    slow_start["stage2"] = {"epochs": 8, "learning_rate": 0.02}
    recipe = make_run(tmp_path, **(SMALL | {"training": slow_start}))
    design = design_ablation(recipe, member="linear", variants=["no-stage-2", "no-class-weights"])
    report = run_ablation(design, device="cpu", workers=1)
    stage_2, class_weights = report.variants
    assert stage_2.is_clear
    assert stage_2.relative.high < -0.2
    assert not class_weights.is_clear
    assert report.verdict[-2].endswith(
        "3 seeds each: stage 2 pays. There is no clear effect of class weights."
    )


def test_a_variant_that_fails_says_why_and_is_not_compared(tmp_path, monkeypatch):
    def explode(recipe, member):
        rates = {"stage1": {"learning_rate": 1e30}, "gradient_clip": None}
        return member.model_copy(update={"training": rates})

    exploding = Variant("exploding", "with a bang", "caution", None, explode, lambda *_: "")
    monkeypatch.setitem(VARIANTS, "exploding", exploding)
    recipe = make_run(tmp_path, **SMALL)
    design = design_ablation(recipe, seeds=1, member="linear", variants=["no-mixup", "exploding"])
    report = run_ablation(design, device="cpu", workers=1)
    mixup, exploded = report.variants
    assert mixup.difference is not None
    assert exploded.state == "failed"
    assert "1 of 1 seeds: exploding-seed0/fold-0: the loss" in exploded.note
    assert exploded.difference is None
    assert as_json(report)["variants"][-1]["macro_f1_by_seed"] == [None]
    assert "caution" not in " ".join(report.verdict)


def test_without_the_full_member_there_is_nothing_to_compare_with(tmp_path):
    design = design_ablation(make_run(tmp_path), seeds=2, variants=["no-mixup"])
    with pytest.raises(TrainingError, match="nothing to compare with, full-seed1 could not be trained: boom"):
        evaluate_ablation(design, _trained(design, {"full-seed1": "boom"}))


def test_one_seed_one_speaker_gives_numbers_but_no_conclusion(tmp_path):
    corpus = read_corpus(make_run(tmp_path).corpus)
    alone = replace(
        corpus, utterances=tuple(replace(utterance, speaker="s0") for utterance in corpus.utterances)
    )
    write_corpus(alone, tmp_path / "corpus.csv")
    design = design_ablation(load_recipe(tmp_path / "recipe.yaml"), seeds=1, variants=["no-mixup"])
    for member, wrong in (("full-seed0", 0), ("no-mixup-seed0", 20)):
        predicted = np.where(np.arange(len(alone)) < wrong, 0, np.maximum(consensus(alone), 0))
        _posteriors(alone, member, predicted, np.arange(len(alone))).save(
            Run(design.recipe.output).posteriors_path(member)
        )
    report = evaluate_ablation(design, _trained(design))
    (result,) = report.variants
    assert result.difference.value < 0
    assert np.isnan([result.difference.low, result.p_speakers, result.p_seeds]).all()
    assert not result.is_clear
    assert "there is no clear effect of" in report.verdict[-2]
    json.dumps(as_json(report), allow_nan=False)


def test_the_verdict_says_no_more_than_both_kinds_of_luck_allow():
    full = VariantResult("full", "", "", None, scores=(0.5, 0.5))

    def variant(name, value, p_speakers, p_seeds):
        difference = Difference(value, value - 0.01, value + 0.01, p_speakers)
        return VariantResult(name, "", name, None, scores=(0.5 + value,) * 2, difference=difference,
                             p_speakers=p_speakers, p_seeds=p_seeds)  # fmt: skip

    variants = (
        variant("soft targets", -0.05, 0.01, 0.01),
        variant("deep fusion", -0.06, 0.01, 0.02),
        variant("MixUp", 0.04, 0.01, 0.01),
        variant("multitask learning", -0.05, 0.01, 0.3),
        variant("stage 2", -0.05, 0.2, 0.01),
        VariantResult("class weights", "", "class weights", None, "skipped", "there are none"),
    )
    report = AblationReport(Run(Path("run")), "fusion", 2, 640, 80, 0, full, variants)
    assert report.verdict == (
        "On 640 rows of 80 speakers, 2 seeds each: soft targets and deep fusion pay. MixUp does harm. "
        "There is no clear effect of multitask learning and stage 2.",
    )
    few = replace(report, speakers=8, rows_without_speaker=5, seeds=1)
    assert "Only 8 speakers" in few.verdict[1]
    assert "5 rows name no speaker" in few.verdict[1]
    assert "With one seed" in few.verdict[1]


def test_the_baseline_stands_beside_the_variants_and_full_is_held_against_it(tmp_path):
    recipe = make_run(tmp_path, members=[FUSION], **SMALL)
    design = design_ablation(recipe, seeds=2, variants=["no-mixup"])
    report = run_ablation(design, workers=1)
    corpus = read_corpus(recipe.corpus)
    labels = dict(zip(corpus.ids, consensus(corpus), strict=True))

    def score(name):
        table = Posteriors.load(report.run.posteriors_path(name))
        true = np.asarray([labels[utterance_id] for utterance_id in table.ids])
        known = true >= 0
        return macro_f1(true[known], table.class_probabilities[known].argmax(axis=1), 3)

    full = np.mean([score("full-seed0"), score("full-seed1")])
    assert report.baseline.score.value == pytest.approx(score("linear-baseline"))
    assert report.baseline.full_minus.value == pytest.approx(full - score("linear-baseline"))
    assert not report.baseline.full_minus.is_gain, "three epochs are not enough here"
    assert report.verdict[0].startswith("The full member is not above the linear baseline (macro-F1 ")
    written = {line["variant"]: line for line in csv.DictReader(report.csv_path.read_text().splitlines())}
    assert float(written["baseline"]["difference"]) == pytest.approx(
        -report.baseline.full_minus.value, rel=1e-4
    )
    assert json.loads(report.json_path.read_text())["baseline"]["name"] == "linear-baseline"
