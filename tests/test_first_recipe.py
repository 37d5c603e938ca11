from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.layers import parse_layers
from sercache.cache.ledger import Ledger
from sercache.cache.shard import StoredUtterance
from sercache.cache.sources import Source
from sercache.cache.store import Cache
from sercache.cache.writer import publish_shard, start_feature_set
from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.errors import CorpusError, EncoderError
from sercache.first_recipe import MANY_ROWS, SIZINGS, propose
from sercache.first_recipe_features import layers_request
from sercache.first_recipe_text import recipe_text
from sercache.recipe import load_recipe
from sercache.training.ensemble import train_ensemble
from support.run_builder import make_corpus, write_features

SPEC = FeatureSpec(
    encoder="microsoft/wavlm-large",
    revision="1",
    modality="audio",
    layers=("sum-21-24",),
    num_layers=24,
    dim=3,
    frame_rate_hz=50.0,
    sample_rate_hz=16000,
    normalization="none",
    library="transformers 5",
    dtype="float16",
    window_seconds=30.0,
    overlap_seconds=2.0,
)


def corpus_of(count=60, speakers=10, **changes):
    rows = []
    for place in range(count):
        given = {"id": f"u{place}", "audio": f"{place}.wav", "text": f"sentence {place}"}
        given |= {"speaker": f"s{place % speakers}", "votes": (2.0, 1.0) if place % 2 else (0.0, 3.0)}
        rows.append(Utterance(**(given | changes)))
    return Corpus(("A", "B"), (), tuple(rows), Path())


def written(folder, corpus, cache=None, **options):
    """Write corpus and recipe as the command does; return the loaded recipe and its text."""
    write_corpus(replace(corpus, root=folder), folder / "corpus.csv")
    proposal = propose(corpus, cache, **options)
    text = recipe_text(proposal, folder / "recipe.yaml", folder / "corpus.csv", cache)
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml"), text


def hold(cache, corpus, spec=SPEC, *, ids=None):
    import numpy as np

    feature_set = start_feature_set(cache, spec)
    frames = tuple(np.ones((2, spec.dim), np.float16) for _ in spec.layers)
    source = Source("0" * 32, 5, (None, None))
    rows = [StoredUtterance(utterance_id, frames, 1.0, source) for utterance_id in (ids or corpus.ids)]
    publish_shard(feature_set, "0" * 12, rows)
    return feature_set


@pytest.mark.parametrize(
    ("request_text", "num_layers"),
    [
        *(("last", 0), ("last", 1), ("last", 12), ("last2", 2), ("last4", 12), ("all", 0), ("all", 2)),
        *(("1", 1), ("1", 12), ("0,2", 2), ("3-5", 12), ("6,9,12", 12), ("0-2,last", 2), ("0-12", 12)),
    ],
)
def test_a_layers_request_means_the_layers_it_was_made_of(request_text, num_layers):
    names = parse_layers(request_text, num_layers).names
    assert parse_layers(layers_request(names, num_layers), num_layers).names == names


def test_every_feature_set_of_the_cache_is_found_again_by_its_recipe(tmp_path):
    corpus = corpus_of()
    specs = [
        SPEC,
        replace(SPEC, layers=("layer-6", "layer-9", "last")),
        replace(SPEC, time_pool=2),
        replace(SPEC, dtype="bfloat16"),
        replace(SPEC, window_seconds=10.0, overlap_seconds=1.0),
        replace(SPEC, encoder="kwt1", layers=("last",), num_layers=12),
        replace(SPEC, encoder="other tool!", library="imported", layers=("layer-3",), num_layers=0),
        replace(SPEC, encoder="FacebookAI/roberta-large", modality="text", options={"text_column": "asr"},
                window_seconds=None, overlap_seconds=None),
    ]  # fmt: skip
    for spec in specs:
        hold(tmp_path / "cache", corpus, spec)
    recipe, text = written(tmp_path, corpus, tmp_path / "cache")
    assert text.count("made by another tool") == text.count("a local checkpoint: ") == 1
    found = {Cache(recipe.cache).find(feature).spec.fingerprint for feature in recipe.features.values()}
    assert found == {spec.fingerprint for spec in specs}


def test_linear_members_on_each_feature_set_and_on_all_come_before_a_few_neural_ones(tmp_path):
    corpus = corpus_of()
    hold(tmp_path / "cache", corpus)
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="FacebookAI/roberta-large", modality="text"))
    recipe, text = written(tmp_path, corpus, tmp_path / "cache")
    members = {member.name: (member.head, set(member.features)) for member in recipe.members}
    both = {"wavlm-large", "roberta-large"}
    for head in ("ridge", "logistic"):
        assert members[f"{head}-all"] == (head, both)
        for name in both:
            assert members[f"{head}-{name}"] == (head, {name})
    assert members["fusion-1"] == ("deepser", both)
    heads = [member.head for member in recipe.members]
    assert heads == [*["ridge", "logistic"] * 3, "deepser", "deepser"]
    assert len({member.seed for member in recipe.members[6:]}) == 2
    assert text.count("solved in closed form") == 1


def test_of_one_feature_set_there_are_no_members_twice(tmp_path):
    recipe, _ = written(tmp_path, corpus_of(text=None))
    assert [member.name for member in recipe.members] == ["ridge-speech", "logistic-speech", "deepser-speech"]
    assert [member.head for member in recipe.members] == ["ridge", "logistic", "deepser"]


def test_neural_members_read_the_feature_sets_with_most_to_tell(tmp_path):
    corpus = corpus_of()
    layers = ("layer-0", "layer-1", "layer-2", "last")
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="narrow", dim=2))
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="deep", dim=2, layers=layers, num_layers=3))
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="wide", dim=5))
    recipe, _ = written(tmp_path, corpus, tmp_path / "cache")
    neural = [member.features for member in recipe.members if member.head == "deepser"]
    assert neural == [["deep", "wide"], ["deep"]]


def test_a_feature_set_that_is_not_finished_is_left_out_with_its_line(tmp_path):
    corpus = corpus_of()
    hold(tmp_path / "cache", corpus)
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="slow"), ids=corpus.ids[:10])
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="elsewhere"), ids=("x", "y"))
    recipe, text = written(tmp_path, corpus, tmp_path / "cache")
    assert list(recipe.features) == ["wavlm-large"]
    assert "# slow: {encoder: slow" in text
    assert "50 utterances of the corpus are still to be extracted" in text
    assert "elsewhere" not in text


def test_what_failed_is_not_still_to_be_extracted(tmp_path):
    corpus = corpus_of()
    feature_set = hold(tmp_path / "cache", corpus, ids=corpus.ids[1:])
    ledger = Ledger(feature_set.folder)
    ledger.record("u0", "decode", ValueError("broken"), "0" * 12)
    ledger.save()
    proposal = propose(corpus, tmp_path / "cache")
    assert proposal.is_cached
    assert proposal.features[0].untried == 0


def test_without_a_cache_embedded_encoders_are_proposed_and_real_ones_are_told_of(tmp_path):
    recipe, text = written(tmp_path, corpus_of())
    assert {feature.encoder for feature in recipe.features.values()} == {"logmel", "char-ngrams"}
    assert "# wavlm: {encoder: microsoft/wavlm-large, layers: all, time_pool: 4}" in text
    assert "# roberta: " in text
    assert "sercache init --encoder" in text
    assert not propose(corpus_of(), None).is_cached


def test_what_all_say_alike_is_not_read(tmp_path):
    recipe, text = written(tmp_path, corpus_of(text="the same"))
    assert [feature.encoder for feature in recipe.features.values()] == ["logmel"]
    assert "the same 1 sentences" in text
    only_text = corpus_of(text="the same", audio=None)
    assert [feature.recipe.encoder for feature in propose(only_text, None).features] == ["char-ngrams"]


@pytest.mark.parametrize(("speakers", "folds"), [(3, 3), (4, 4), (5, 5), (10, 5)])
def test_there_are_as_many_folds_as_speakers_allow(speakers, folds, tmp_path):
    recipe, text = written(tmp_path, corpus_of(speakers=speakers))
    assert recipe.folds.count == folds
    assert ("cannot be had" in text) == (folds < 5)


@pytest.mark.parametrize(("speakers", "has_base"), [(3, False), (4, True)])
def test_a_neural_member_starts_from_a_closed_form_where_speakers_are_left_to_fit_it_on(
    speakers, has_base, tmp_path
):
    recipe, text = written(tmp_path, corpus_of(speakers=speakers))
    assert all(
        ("base" in member.options) == has_base for member in recipe.members if member.head == "deepser"
    )
    assert ("(base)" in text) == has_base


def test_sizes_statistics_and_neural_members_go_with_the_number_of_clips(tmp_path):
    widths, numbers = [], []
    for place, count in enumerate((60, 3000, MANY_ROWS + 1)):
        folder = tmp_path / str(place)
        folder.mkdir()
        recipe, _ = written(folder, corpus_of(count))
        neural = [member for member in recipe.members if member.head == "deepser"]
        widths.append(neural[0].options.get("width", 512))
        numbers.append(len(neural))
        statistics = {member.options.get("statistics") for member in recipe.members if member not in neural}
        assert statistics == ({"mean+deviation"} if count > MANY_ROWS else {None})
    assert widths == sorted(set(widths))
    assert numbers == sorted(numbers)
    assert all(found <= sizing.neural_members for found, sizing in zip(numbers, SIZINGS, strict=True))
    assert recipe.training == type(recipe.training)()


LARGE = ("microsoft/wavlm-large", "FacebookAI/roberta-large", "openai/whisper-large-v3:last")
HOUR = {"start_seconds": 0.0, "end_seconds": 3600.0, "text": "x" * 3600 * 15}


def test_encoders_by_name_are_proposed_with_all_layers_and_their_size(tmp_path):
    """An hour of speech and of its transcript: frames a second x features x layers x 2 bytes."""
    corpus = corpus_of(60, **HOUR)
    proposal = propose(corpus, None, LARGE)
    found = {feature.name: feature for feature in proposal.features}
    asked = {name: (feature.recipe.layers, feature.recipe.time_pool) for name, feature in found.items()}
    assert asked == {"wavlm-large": ("all", 4), "roberta-large": ("all", 1), "whisper-large-v3": ("last", 4)}
    seconds = 60 * 3600
    assert found["wavlm-large"].size_bytes == pytest.approx(seconds * 50 / 4 * 1024 * 25 * 2)
    assert found["roberta-large"].size_bytes == pytest.approx(seconds * 4 * 1024 * 25 * 2)
    assert found["whisper-large-v3"].size_bytes == pytest.approx(seconds * 50 / 4 * 1280 * 2)
    assert not proposal.is_cached
    _, text = written(tmp_path, corpus, encoders=LARGE)
    assert f"about {proposal.size_bytes / 1e9:.0f} GB" in text


def test_where_the_disk_has_no_room_for_all_layers_the_last_four_are_summed_the_largest_first(tmp_path):
    corpus = corpus_of(60, **HOUR)
    wavlm, roberta, _ = propose(corpus, None, LARGE).features
    room = (roberta.size_bytes + wavlm.size_bytes * 0.1) / 0.8
    recipe, text = written(tmp_path, corpus, encoders=LARGE, free_bytes=room)
    layers = {feature.encoder: feature.layers for feature in recipe.features.values()}
    assert layers == {LARGE[0]: "last4", LARGE[1]: "all", "openai/whisper-large-v3": "last"}
    assert f"all layers would take {wavlm.size_bytes / 1e9:.0f} GB" in text
    nowhere = propose(corpus, None, LARGE, free_bytes=0)
    assert [feature.recipe.layers for feature in nowhere.features] == ["last4", "last4", "last"]


def test_encoders_by_name_join_what_is_cached_and_what_is_there_already_is_not_asked_for_again(tmp_path):
    corpus = corpus_of()
    names = ("sum-21-24",)
    hold(tmp_path / "cache", corpus, replace(SPEC, layers=names, time_pool=4, dim=1024))
    hold(tmp_path / "cache", corpus, replace(SPEC, encoder="other"), ids=corpus.ids[:5])
    proposal = propose(corpus, tmp_path / "cache", ["microsoft/wavlm-large:last4", "openai/whisper-base"])
    assert {feature.name: feature.is_extracted for feature in proposal.features} == {
        "wavlm-large": True,
        "whisper-base": False,
    }
    assert [feature.name for feature in proposal.left_out] == ["other"]
    assert not proposal.is_cached
    text = recipe_text(proposal, tmp_path / "r.yaml", tmp_path / "corpus.csv", tmp_path / "cache")
    assert "what the cache holds" in text
    assert "Still to be extracted" in text


def test_a_text_encoder_reads_the_transcripts_where_there_is_no_other_text():
    column = "text:openai/whisper-large-v3"
    [feature] = propose(
        corpus_of(text=None, extras={column: "so be it"}), None, ["FacebookAI/roberta-large"]
    ).features
    assert feature.recipe.text_column == column
    with pytest.raises(CorpusError, match="sercache transcribe"):
        propose(corpus_of(text=None), None, ["FacebookAI/roberta-large"])
    with pytest.raises(CorpusError, match="no audio"):
        propose(corpus_of(audio=None), None, ["logmel"])
    with pytest.raises(EncoderError, match="this encoder has the layers 0 to 24"):
        propose(corpus_of(), None, ["microsoft/wavlm-large:40"])


def test_classes_that_no_row_has_are_left_out_and_attributes_are_told_of(tmp_path):
    corpus = corpus_of()
    rows = tuple(replace(row, votes=(*row.votes, 0.0), attributes=(1.0,)) for row in corpus.utterances)
    corpus = Corpus(("yes", "B: {odd}", "C"), (Attribute("arousal", 1, 7),), rows, Path())
    recipe, text = written(tmp_path, corpus)
    assert recipe.classes == ["yes", "B: {odd}"]
    assert "beside the classes: arousal" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"votes": (1.0, 0.0)}, "two classes"),
        ({"speaker": None}, "3 speakers at least, the training rows have 1; 60 utterances name none"),
        ({"audio": None, "text": None}, "neither audio nor texts"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_a_line(changes, message):
    with pytest.raises(CorpusError, match=message):
        propose(corpus_of(**changes), None)


def test_speakers_in_several_splits_are_refused():
    corpus = corpus_of()
    rows = (replace(corpus.utterances[0], split="test"), *corpus.utterances[1:])
    with pytest.raises(CorpusError, match="1 speakers are in several splits, first 's0'"):
        propose(replace(corpus, utterances=rows), None)


def test_no_line_is_too_long_and_hostile_names_stay_within_their_comment(tmp_path):
    rows = tuple(replace(row, votes=(*row.votes, 0.0)) for row in corpus_of().utterances)
    corpus = Corpus(("A\nmembers: []", "- B", "C\u2028x"), (), rows, Path())
    text = recipe_text(propose(corpus, None), tmp_path / "r.yaml", tmp_path / "a: b #.csv", None)
    assert yaml.safe_load(text)["classes"] == ["A\nmembers: []", "- B"]
    assert yaml.safe_load(text)["corpus"] == "a: b #.csv"


def test_it_trains(tmp_path):
    corpus = make_corpus(tmp_path)
    corpus = corpus.select(row.id for row in corpus.utterances if row.speaker < "s3")
    write_features(tmp_path, corpus)
    recipe, _ = written(tmp_path, corpus, tmp_path / "cache")
    short = recipe.training.model_dump() | {"stage1": {"epochs": 1}, "stage2": {"epochs": 1}}
    recipe = recipe.model_copy(update={"training": type(recipe.training).model_validate(short)})
    report = train_ensemble(recipe, device="cpu", workers=1)
    assert [member.error for member in report.members] == [""] * len(recipe.members)
    assert {member.head for member in recipe.members} == {"ridge", "logistic", "deepser"}
