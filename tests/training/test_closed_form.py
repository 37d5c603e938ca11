"""Heads that are fitted without epochs: against scikit-learn, and with odd data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.errors import CacheError, Interrupted, RecipeError, TrainingError
from sercache.heads.pooled_linear import STATISTICS, parse_statistics
from sercache.heads.registry import build_head
from sercache.recipe import TargetsRecipe, load_recipe
from sercache.training import closed_form, penalty_search, pooled_features
from sercache.training.block_weights import learn_block_weights
from sercache.training.cached_frames import predict
from sercache.training.checkpoint import load_head
from sercache.training.closed_form import fit_head
from sercache.training.data import open_run
from sercache.training.ensemble import lay_out, train_ensemble
from sercache.training.loop import Training
from sercache.training.losses import class_weights
from sercache.training.member import FoldJob, fold_rows, train_fold
from sercache.training.pooled_features import PooledTable, pooled_table
from sercache.training.rows import LabelledRows
from support.run_builder import CLASSES, make_corpus, make_run, write_features, write_recipe

RIDGE = {"name": "ridge", "head": "ridge", "features": ["speech", "words"]}
LOGISTIC = {"name": "logistic", "head": "logistic", "features": ["speech", "words"]}
DIM, LAYERS = 3, 2


def problem(speakers=6, per_speaker=6, *, seed=0, attributes=True):
    """Return corpus, targets and a table (of speech, all statistics) whose classes can be learned."""
    generator = np.random.default_rng(seed)
    utterances, values = [], []
    centres = generator.normal(size=(len(CLASSES), len(STATISTICS), LAYERS, DIM))
    for speaker in range(speakers):
        for row in range(per_speaker):
            votes = np.zeros(len(CLASSES))
            votes[row % len(CLASSES)] = 2
            votes[generator.integers(len(CLASSES))] += 1
            utterances.append(
                Utterance(
                    id=f"{speaker}/{row}",
                    text="words",
                    speaker=f"s{speaker}",
                    votes=tuple(votes),
                    attributes=(float(row % 5),) if attributes else (),
                )
            )
            values.append(centres[row % len(CLASSES)] + generator.normal(size=centres.shape[1:]))
    from sercache.corpus import Attribute

    named = (Attribute("arousal", 0, 4),) if attributes else ()
    corpus = Corpus(CLASSES, named, tuple(utterances), None)
    table = PooledTable(np.asarray(values, np.float32), np.ones(len(values), np.bool_))
    return corpus, LabelledRows.of(corpus, TargetsRecipe()), table


def fitted(name, corpus, targets, tables, seed=0, **options):
    """Return a head in double precision with the solution, and the solution."""
    attributes = [(attribute.low, attribute.high) for attribute in corpus.attributes]
    head = build_head(
        name, [DIM] * len(tables), len(CLASSES), attributes, options, 0, [LAYERS] * len(tables)
    ).double()
    return head, fit_head(head, tables, np.arange(len(corpus)), corpus, targets, seed=seed)


def outputs(head, tables):
    """Return the head's outputs on the pooled statistics, past the pooling."""
    parts = []
    for index, table in enumerate(tables):
        flat = torch.from_numpy(table.values.reshape(len(table.values), -1)).double()
        mean, scale = head.get_buffer(f"pooled_mean_{index}"), head.get_buffer(f"pooled_scale_{index}")
        parts.append((flat - mean) * scale * torch.from_numpy(table.present)[:, None])
    return head.classify(torch.cat(parts, dim=1))


def standardized(table):
    flat = table.values.reshape(len(table.values), -1).astype(np.float64)
    return (flat - flat.mean(axis=0)) / flat.std(axis=0) / np.sqrt(flat.shape[1])


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("penalty", [0.03, 3.0])
def test_posteriors_equal_scikit_learns_for_a_given_penalty(monkeypatch, form, penalty):
    if form == "primal":
        monkeypatch.setattr(penalty_search, "DUAL_ROWS", 0)
    corpus, targets, table = problem()
    options = {"penalty": penalty, "learn_blocks": False, "balance": 0.5}
    rows = targets.soft @ class_weights(targets.soft, 0.5)
    rows *= len(rows) / rows.sum()
    values = standardized(table)

    head, _ = fitted("logistic", corpus, targets, [table], **options)
    logits = outputs(head, [table]).logits.detach().numpy()
    repeated, labels = np.repeat(values, len(CLASSES), axis=0), np.tile(np.arange(len(CLASSES)), len(values))
    counts = (targets.soft * rows[:, None]).ravel()
    oracle = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=1000, solver="newton-cg")
    oracle.fit(repeated[counts > 0], labels[counts > 0], sample_weight=counts[counts > 0])
    # The scores are scaled by how well left-out speakers are predicted; the oracle's logits likewise.
    wanted = oracle.decision_function(values)
    scale = np.linalg.lstsq(
        (wanted - wanted.mean(1)[:, None]).reshape(-1, 1), (logits - logits.mean(1)[:, None]).ravel()
    )[0]
    posteriors = torch.softmax(torch.from_numpy(wanted * scale), dim=1).numpy()
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(logits), dim=1).numpy(), posteriors, atol=1e-6)

    head, _ = fitted("ridge", corpus, targets, [table], **options)
    output = outputs(head, [table])
    wanted = Ridge(alpha=penalty).fit(values, 2 * targets.soft - 1, sample_weight=rows).predict(values)
    ratio = output.logits.detach().numpy() / wanted
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-5)
    arousal = Ridge(alpha=penalty).fit(values, targets.attributes[:, 0]).predict(values)
    np.testing.assert_allclose(output.attributes[:, 0].detach(), np.clip(arousal, 0, 4), atol=1e-6)


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_probabilities_are_calibrated_on_left_out_speakers(name):
    corpus, targets, table = problem(speakers=12, per_speaker=12)
    _, solution = fitted(name, corpus, targets, [table])
    logits = torch.from_numpy(solution.left_out[:, : len(CLASSES)])
    soft = torch.from_numpy(targets.soft)
    loss = [
        -(soft * torch.log_softmax(scale * logits, dim=1)).sum(dim=1).mean() for scale in (0.8, 1.0, 1.25)
    ]
    assert loss[1] < loss[0]
    assert loss[1] < loss[2]
    assert solution.score > 0.6


def test_no_speaker_is_on_both_sides_of_the_choice_of_a_penalty(monkeypatch):
    corpus, targets, table = problem()
    seen = []
    original = penalty_search.PenaltySearch.__init__

    def spy(self, rows, groups, should_stop):
        seen.append(groups)
        original(self, rows, groups, should_stop)

    monkeypatch.setattr(penalty_search.PenaltySearch, "__init__", spy)
    fitted("ridge", corpus, targets, [table])
    (groups,) = seen
    for speaker in {row.speaker for row in corpus.utterances}:
        assert len(set(groups[[row.speaker == speaker for row in corpus.utterances]])) == 1
    assert len(set(groups)) == 4


def test_labels_of_the_predicted_fold_change_nothing(tmp_path):
    """A model of a fold, its penalty and its weights of blocks come from the other folds' rows only."""
    weights = []
    for name, shift in (("as it is", 0), ("other labels", 1)):
        folder = tmp_path / name
        folder.mkdir()
        corpus = make_corpus(folder)
        write_features(folder, corpus)
        recipe = load_recipe(write_recipe(folder, members=[RIDGE]))
        data = lay_out(recipe)
        fold = set(fold_rows(data, recipe.members[0], 0).predicted["out-of-fold"])
        if shift:
            turned = [
                replace(row, votes=tuple(np.roll(row.votes, shift))) if row.id in fold else row
                for row in corpus.utterances
            ]
            write_corpus(replace(corpus, utterances=tuple(turned)), folder / "corpus.csv")
            open_run.cache_clear()
        list(train_fold(FoldJob(data.run.root, "ridge", 0, "cpu")))
        weights.append(load_head(data.run.fold_folder("ridge", 0) / "weights.safetensors")[0].state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("name", ["ridge", "logistic"])
@pytest.mark.parametrize(
    "odd", ["no attributes", "one clip per class", "two speakers", "one speaker", "one class", "constant"]
)
def test_odd_rows_give_finite_posteriors(name, odd):
    corpus, targets, table = problem(
        speakers=2 if odd == "two speakers" else 3, per_speaker=6, attributes=odd != "no attributes"
    )
    if odd == "one clip per class":
        rows = [row.id for row in corpus.utterances[:3]]
        corpus, targets = corpus.select(rows), targets.select(rows)
        table = PooledTable(table.values[:3], table.present[:3])
    if odd == "one speaker":
        corpus = replace(corpus, utterances=tuple(replace(row, speaker="s") for row in corpus.utterances))
    if odd == "one class":
        targets = replace(
            targets, soft=np.tile(np.eye(3)[1], (len(corpus), 1)), consensus=np.ones(len(corpus), np.int64)
        )
    if odd == "constant":
        table.values[:, :, :, 1] = 7.0
    head, _ = fitted(name, corpus, targets, [table])
    output = outputs(head, [table])
    assert torch.isfinite(output.logits).all()
    assert torch.isfinite(output.attributes).all()
    if odd == "one class":
        assert (output.logits.argmax(dim=1) == 1).all()


def test_a_missing_feature_set_counts_as_its_mean():
    corpus, targets, table = problem()
    present = np.ones(len(corpus), np.bool_)
    present[::4] = False
    other = PooledTable(np.where(present[:, None, None, None], table.values, 0.0).astype(np.float32), present)
    head, _ = fitted("ridge", corpus, targets, [table, other])
    mean = np.where(present[:, None, None, None], table.values, table.values[present].mean(axis=0))
    filled = PooledTable(mean.astype(np.float32), np.ones_like(present))
    expected = outputs(head, [table, filled]).logits.detach()
    torch.testing.assert_close(outputs(head, [table, other]).logits.detach(), expected, atol=1e-5, rtol=1e-5)


def test_rows_without_votes_teach_attributes_only():
    corpus, targets, table = problem()
    soft = targets.soft.copy()
    soft[:6] = np.nan
    fewer = replace(targets, soft=soft)
    changed = PooledTable(table.values.copy(), table.present)
    options = {"penalty": 0.1, "learn_blocks": False}
    head, _ = fitted("ridge", corpus, fewer, [table], **options)
    rows = np.arange(6, len(corpus))
    values, weights = standardized(table), soft[rows] @ class_weights(soft, 0.5)
    weights *= len(rows) / weights.sum()
    oracle = Ridge(alpha=0.1).fit(values[rows], 2 * soft[rows] - 1, sample_weight=weights).predict(values)
    ratio = outputs(head, [changed]).logits.detach().numpy() / oracle
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-5)


def test_many_rows_are_fitted_as_few_are(monkeypatch, tmp_path):
    """One inner fold, moments in blocks and a table in a file give nearly what four folds in memory give."""
    recipe = make_run(tmp_path, members=[RIDGE | {"options": {"penalty": 0.1, "learn_blocks": False}}])
    train_ensemble(recipe, workers=1)
    few = predicted(recipe)
    monkeypatch.setattr(penalty_search, "DUAL_ROWS", 0)
    monkeypatch.setattr(pooled_features, "_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(pooled_features, "_BLOCK_ROWS", 5)
    many = load_recipe(tmp_path / "recipe.yaml").model_copy(update={"output": tmp_path / "many"})
    train_ensemble(many, workers=1)
    np.testing.assert_allclose(predicted(many), few, atol=1e-5)
    assert len(list((tmp_path / "many" / "pooled").iterdir())) == 2
    monkeypatch.setattr(penalty_search, "MOST_ROWS_OF_ALL_FOLDS", 0)
    monkeypatch.setattr(closed_form, "MOST_ROWS_OF_ALL_FOLDS", 0)
    single = many.model_copy(update={"output": tmp_path / "single"})
    train_ensemble(single, workers=1)  # the scale of the scores comes from fewer rows
    assert (predicted(single).argmax(axis=1) == few.argmax(axis=1)).mean() > 0.95


def predicted(recipe):
    data = open_run(recipe.output.resolve())
    from sercache.posteriors import Posteriors

    return Posteriors.load(data.run.posteriors_path("ridge")).class_probabilities


def test_a_frame_that_is_no_number_is_named(tmp_path):
    corpus = make_corpus(tmp_path)

    def centre(name, utterance):
        return np.full(DIM * 2 if name == "speech" else 4, np.nan if utterance.id == "s3/2" else 1.0)

    with pytest.MonkeyPatch.context() as patch:  # a cache that another tool wrote
        patch.setattr(
            "support.run_builder.to_storage",
            lambda frames, dtype: (
                frames.astype(np.float16).view(np.uint16)
                if dtype == "bfloat16"
                else frames.astype(np.float16)
            ),
        )
        write_features(tmp_path, corpus, centre_of=centre)
    recipe = load_recipe(write_recipe(tmp_path, members=[RIDGE | {"features": ["speech"]}]))
    with pytest.raises((CacheError, TrainingError), match="utterance 's3/2' has frames that are no finite"):
        train_ensemble(recipe, workers=1)


def test_too_many_numbers_for_the_memory_is_one_line(monkeypatch):
    corpus, targets, table = problem()
    monkeypatch.setattr(penalty_search.os, "sysconf", lambda name: 1)
    with pytest.raises(TrainingError, match=r"needs .* GB of memory, this machine has .*statistics: mean"):
        fitted("ridge", corpus, targets, [table])


def test_a_fit_ends_when_it_is_asked_to_stop():
    corpus, targets, table = problem()
    head = build_head("logistic", [DIM], 3, [(0, 4)], {}, 0, [LAYERS])
    with pytest.raises(Interrupted):
        fit_head(head, [table], np.arange(len(corpus)), corpus, targets, seed=0, should_stop=lambda: True)


@pytest.mark.parametrize("base", ["ridge", "best"])
def test_a_head_with_a_base_begins_at_the_bases_score(tmp_path, monkeypatch, base):
    member = {
        "name": "deep",
        "features": ["speech", "words"],
        "options": {"width": 8, "feedforward": 8, "base": base},
    }
    one_epoch = {"batch_size": 8, "stage1": {"epochs": 1, "learning_rate": 0.01}, "stage2": {"epochs": 0}}
    recipe = make_run(tmp_path, members=[member], training=one_epoch)
    begun = []
    original = Training.steps

    def spy(self):
        outputs = predict(self.head, self.source.stop, 8)
        begun.append((outputs, predict(self.head.base, self.source.stop, 8), self.source.start))
        return original(self)

    monkeypatch.setattr(Training, "steps", spy)
    run = train_ensemble(recipe, workers=1).run
    assert len(begun) == 3
    for whole, of_base, start in begun:
        torch.testing.assert_close(whole.logits, of_base.logits)
        torch.testing.assert_close(
            whole.attributes, of_base.attributes.clamp(1.006, 6.994), atol=1e-4, rtol=0
        )
        assert torch.isfinite(start).all()
    head, description = load_head(run.fold_folder("deep", 0) / "weights.safetensors")
    assert description.options["base"] == base
    assert head.base is not None
    assert all(not parameter.requires_grad for parameter in head.base.parameters())


def test_what_a_head_with_a_base_starts_from_was_predicted_without_the_rows_speaker(tmp_path):
    """Frames name the speaker and nothing else, and each speaker has one class."""
    corpus = make_corpus(tmp_path)
    turned = tuple(
        replace(row, votes=tuple(3.0 * np.eye(3)[int(row.speaker[1:]) % 3]), other_votes=0.0)
        for row in corpus.utterances
    )
    corpus = replace(corpus, utterances=turned)
    write_corpus(corpus, tmp_path / "corpus.csv")
    generator = np.random.default_rng(0)
    voices = {
        f"s{speaker}": {"speech": generator.normal(size=6), "words": generator.normal(size=4)}
        for speaker in range(8)
    }
    write_features(tmp_path, corpus, centre_of=lambda name, row: 5 * voices[row.speaker][name])
    recipe = load_recipe(write_recipe(tmp_path, members=[RIDGE | {"options": {"penalty": 0.001}}]))
    data = lay_out(recipe)
    member = recipe.members[0]
    tables = [data.pooled(name, STATISTICS, "cpu") for name in member.features]
    ids = sorted(corpus.ids)
    rows = data.rows_of(member).select(ids)
    head = data.build_head(member, 0)
    solution = fit_head(head, tables, np.arange(len(ids)), corpus.select(ids), rows, seed=0)
    within = (solution.left_out[:, :3].argmax(axis=1) == rows.consensus).mean()
    known = predict(head, data.frames("cpu").select(ids, data.sets_of(member)), 32)
    assert (known.logits.argmax(dim=1).numpy() == rows.consensus).mean() > 0.9 > 0.6 > within


def test_a_base_has_to_be_a_head_without_epochs():
    with pytest.raises(RecipeError, match="option 'base' must be best, none, or a head that is fitted"):
        build_head("deepser", [4], 3, [], {"base": "mean-linear"}, 0)
    with pytest.raises(RecipeError, match=r"unknown head 'rigde'.*Did you mean 'ridge'"):
        build_head("deepser", [4], 3, [], {"base": "rigde"}, 0)
    with pytest.raises(RecipeError, match="has no option 'base'"):
        build_head("ridge", [4], 3, [], {"base": "ridge"}, 0)


@pytest.mark.parametrize("request_", ["mean+median", "mean+mean", ""])
def test_unknown_statistics_are_refused(request_):
    with pytest.raises(ValueError, match="statistics: "):
        parse_statistics(request_)


def test_of_many_rows_only_the_blocks_that_count_most_are_kept(monkeypatch):
    corpus, targets, table = problem(speakers=8, per_speaker=12)
    for module in (closed_form, penalty_search):
        monkeypatch.setattr(module, "DUAL_ROWS", 0)
    monkeypatch.setattr(closed_form, "_MOST_FEATURES", 4 * DIM)
    head, solution = fitted("ridge", corpus, targets, [table])
    shares = head.get_buffer("block_share_0")
    assert int((shares > 0).sum()) == 4
    assert float(shares.sum()) == pytest.approx(1)
    weights = head.class_output.weight.reshape(len(CLASSES), len(STATISTICS), LAYERS, DIM)
    assert ((weights != 0).any(dim=3).any(dim=0) == (shares > 0)).all()
    assert solution.score > 0.5


def test_a_block_of_noise_counts_less_than_a_useful_one():
    generator = np.random.default_rng(0)
    labels, groups = np.tile(np.arange(3), 20), np.repeat(np.arange(4), 15)
    useful = np.eye(3)[labels] + 0.3 * generator.normal(size=(60, 3))
    noise = generator.normal(size=(60, 3))
    grams = np.stack([block @ block.T / 3 for block in (useful - useful.mean(0), noise)]).astype(np.float32)
    weights = learn_block_weights(grams, np.eye(3)[labels], groups, np.array([0, 1]))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.8


def test_pooled_tables_are_what_the_head_pools(tmp_path):
    recipe = make_run(tmp_path, members=[RIDGE])
    data = lay_out(recipe)
    ids = [*sorted(data.corpus.ids), "s9/9"]
    (speech, _) = (data.feature_sets[name] for name in ("speech", "words"))
    table = pooled_table(speech, ids, STATISTICS, torch.device("cpu"), tmp_path)
    assert table.present.tolist() == [True] * (len(ids) - 1) + [False]
    assert table.present.sum() == len(ids) - 1
    frames = speech.frames("s0/0").astype(np.float64)
    found = table.values[ids.index("s0/0"), :, 0]
    centred = frames - frames.mean(axis=0)
    half = len(frames) // 2
    expected = {
        "mean": frames.mean(axis=0),
        "deviation": frames.std(axis=0),
        "change": np.diff(frames, axis=0).std(axis=0),
        "skewness": (centred**3).mean(axis=0) / frames.std(axis=0) ** 3,
        "trend": frames[half:].mean(axis=0) - frames[:half].mean(axis=0),
        "minimum": frames.min(axis=0),
        "maximum": frames.max(axis=0),
    }
    for row, name in enumerate(STATISTICS):
        np.testing.assert_allclose(found[row], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
