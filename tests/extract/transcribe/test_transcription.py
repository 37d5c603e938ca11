"""Whisper over a corpus: the same text whatever the batch, nothing twice, nothing silently wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sercache.cache.ledger import Ledger
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.errors import EncoderError, Interrupted, SercacheError
from sercache.events import Context
from sercache.extract.transcribe import batches as hearing
from sercache.extract.transcribe.transcription import transcribe_corpus
from sercache.extract.transcribe.whisper import PieceTranscript, WhisperTranscriber
from support.tiny_whisper import RATE_HZ, save_tiny_whisper, sound

COLUMN = "text:tiny-whisper"


@pytest.fixture(scope="module")
def transcriber(tiny_whisper):
    return WhisperTranscriber(str(tiny_whisper))


def texts(report):
    return {row.id: row.extras[report.column] for row in report.corpus.utterances}


def test_a_text_does_not_depend_on_batch_mates(transcriber):
    clips = [sound(seconds, seed) for seed, seconds in enumerate([0.5, 3.0, 1.2, 7.7, 2.0])]
    together = transcriber.transcribe(clips)
    assert len({heard.text for heard in together}) > 1
    for clip, heard in zip(clips, together, strict=True):
        (alone,) = transcriber.transcribe([clip])
        assert (alone.text, alone.language, alone.tokens) == (heard.text, heard.language, heard.tokens)
        assert alone.log_probability == pytest.approx(heard.log_probability, rel=1e-3)
        assert alone.no_speech == pytest.approx(heard.no_speech, rel=1e-3)


def test_bfloat16_writes_texts_too_and_none_depends_on_its_batch(tiny_whisper):
    coarse = WhisperTranscriber(str(tiny_whisper), precision="bfloat16")
    clips = [sound(seconds, seed) for seed, seconds in enumerate([0.5, 3.0, 1.2])]
    together = coarse.transcribe(clips)
    assert all(heard.text and np.isfinite(heard.log_probability) for heard in together)
    assert [coarse.transcribe([clip])[0].text for clip in clips] == [heard.text for heard in together]


def test_greedy_texts_are_those_of_transformers(tiny_whisper, transcriber):
    """An independent oracle: transformers' own generation with the same prompt and the same bans."""
    import torch
    from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.generation import GenerationMixin

    model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_whisper)
    extractor = WhisperFeatureExtractor.from_pretrained(tiny_whisper)
    for seed in range(3):
        clip = sound(2.0, seed)
        (heard,) = transcriber.transcribe([clip])
        prompt = ["<|startoftranscript|>", f"<|{heard.language}|>", "<|transcribe|>", "<|notimestamps|>"]
        features = extractor(clip, sampling_rate=RATE_HZ, return_tensors="pt").input_features
        tokens = GenerationMixin.generate(
            model,
            features,
            decoder_input_ids=torch.tensor([tokenizer.convert_tokens_to_ids(prompt)]),
            max_new_tokens=20,
            do_sample=False,
            num_beams=1,
            suppress_tokens=transcriber._never.isinf().nonzero().flatten().tolist(),
            begin_suppress_tokens=transcriber._vocabulary.not_first,
        )
        assert tokenizer.decode(tokens[0, 4:], skip_special_tokens=True).strip() == heard.text


def test_the_column_is_written_and_everything_else_survives(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(1.0, 2.5)
    report = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert (report.column, report.transcribed, report.reused, report.failed) == (COLUMN, 2, 0, 0)
    write_corpus(report.corpus, tmp_path / "out.csv")
    back = read_corpus(tmp_path / "out.csv")
    assert [row.extras["note"] for row in back.utterances] == ["n0", "n1"]
    assert all(row.extras[COLUMN] for row in back.utterances)
    assert back.with_text_of(COLUMN).utterances[0].text == texts(report)["clip-0"]


def test_what_was_heard_is_not_transcribed_again_unless_the_audio_changed(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(1.0, 2.0, 1.5)
    first = transcribe_corpus(corpus.select(["clip-0", "clip-1"]), transcriber, tmp_path / "j")
    grown = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert (grown.transcribed, grown.reused) == (1, 2)
    assert texts(first).items() <= texts(grown).items()
    soundfile.write(tmp_path / "1.wav", sound(2.0, 77), RATE_HZ, subtype="PCM_16")
    assert transcribe_corpus(corpus, transcriber, tmp_path / "j").transcribed == 1
    assert transcribe_corpus(corpus, transcriber, tmp_path / "j", again=True).transcribed == 3
    german = transcribe_corpus(corpus, transcriber, tmp_path / "j", language="de")
    assert german.transcribed == 3, "another language never gets the old texts"


def test_a_text_outlives_its_audio(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(1.0, 2.0)
    first = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    (tmp_path / "1.wav").unlink()
    later = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert (later.reused, later.failed) == (2, 0)
    assert texts(later) == texts(first)


def test_an_interrupted_run_goes_on_and_a_torn_line_costs_itself(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(*(1.0 + number / 10 for number in range(10)))
    whole = transcribe_corpus(corpus, transcriber, tmp_path / "whole")
    asked = iter(range(9))
    with pytest.raises(Interrupted, match="the same command goes on"):
        transcribe_corpus(
            corpus, transcriber, tmp_path / "j", context=Context(should_stop=lambda: next(asked) >= 2)
        )
    (journal,) = (tmp_path / "j").glob("*/transcripts.jsonl")
    assert len(journal.read_text().splitlines()) == 8
    journal.write_bytes(journal.read_bytes()[:-9])
    resumed = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert (resumed.transcribed, resumed.reused) == (3, 7)
    assert texts(resumed) == texts(whole)
    assert transcribe_corpus(corpus, transcriber, tmp_path / "j").transcribed == 0
    assert [len(json.loads(line)) for line in journal.read_text().splitlines()[-3:]] == [3] * 3


def test_bad_files_are_failures_and_silence_is_a_flag(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(1.0, 1.0, 1.0)
    (tmp_path / "1.wav").write_text("these are notes")
    soundfile.write(tmp_path / "2.wav", np.zeros(RATE_HZ), RATE_HZ)
    report = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert report.failed == 1
    assert report.flagged["failed"] == ("clip-1",)
    assert report.flagged["silence"] == ("clip-2",)
    assert texts(report)["clip-2"] == ""
    assert "1.wav" in Ledger(report.folder).failures["clip-1"].message
    soundfile.write(tmp_path / "1.wav", sound(1.0, 5), RATE_HZ)
    mended = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert (mended.failed, mended.transcribed, mended.reused) == (0, 1, 2)
    assert Ledger(report.folder).failures == {}
    (tmp_path / "1.wav").write_text("these are notes")
    with pytest.raises(SercacheError, match=r"1 of 3 utterances failed, at most 0 may \(--max-failures\)"):
        transcribe_corpus(corpus, transcriber, tmp_path / "j", max_failures=0)


def test_noise_that_nobody_hears_is_silence(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(1.0, 1.0)
    noise = np.random.default_rng(0).normal(size=RATE_HZ) * 1e-4
    soundfile.write(tmp_path / "1.wav", noise, RATE_HZ, subtype="FLOAT")
    report = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    assert report.flagged["silence"] == ("clip-1",)
    assert texts(report)["clip-0"]
    assert report.transcribed == 2


def test_the_other_precision_never_gets_the_texts(tiny_whisper, transcriber, make_spoken, tmp_path):
    corpus = make_spoken(1.0)
    transcribe_corpus(corpus, transcriber, tmp_path / "j")
    coarse = WhisperTranscriber(str(tiny_whisper), precision="bfloat16")
    assert transcribe_corpus(corpus, coarse, tmp_path / "j").transcribed == 1


def test_long_audio_is_heard_in_pieces(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(71.0, 2.0)
    report = transcribe_corpus(corpus, transcriber, tmp_path / "j")
    waveform = sound(71.0, 0)
    pieces = hearing.quiet_pieces(soundfile.read(tmp_path / "0.wav", dtype="float32")[0], RATE_HZ, 30.0)
    assert 3 <= len(pieces) <= 4
    assert sum(map(len, pieces)) == len(waveform)
    heard = [transcriber.transcribe([piece])[0].text for piece in pieces]
    assert texts(report)["clip-0"] == " ".join(heard)


def test_a_span_is_what_is_heard(transcriber, make_spoken, tmp_path):
    corpus = make_spoken(6.0)
    (row,) = corpus.utterances
    cut = replace(corpus, utterances=(replace(row, start_seconds=1.0, end_seconds=2.0),))
    soundfile.write(
        tmp_path / "cut.wav", soundfile.read(tmp_path / "0.wav")[0][RATE_HZ : 2 * RATE_HZ], RATE_HZ
    )
    alone = replace(corpus, utterances=(replace(row, audio="cut.wav"),))
    reports = [
        transcribe_corpus(recordings, transcriber, tmp_path / f"{k}")
        for k, recordings in enumerate((cut, alone))
    ]
    assert texts(reports[0]) == texts(reports[1])


def test_a_silent_piece_adds_no_words_and_a_loop_is_flagged():
    spoken = PieceTranscript("so what", "en", 0.1, -1.0, 3)
    nobody = PieceTranscript("thank you for watching", "en", 0.9, -9.0, 5)
    looping = PieceTranscript("no " * 30, "en", 0.1, -1.0, 31)
    assert hearing._joined([spoken, nobody]).text == "so what"
    assert hearing._joined([spoken, nobody]).flags == ()
    assert hearing._joined([nobody]).flags == ("silence", "empty")
    assert hearing._joined([spoken, looping]).flags == ("repeat",)


def test_languages(tiny_whisper, tmp_path):
    (heard,) = WhisperTranscriber(str(tiny_whisper), language="de").transcribe([sound(1.0, 0)])
    assert heard.language == "de"
    with pytest.raises(EncoderError, match=r"does not know the language 'fr'"):
        WhisperTranscriber(str(tiny_whisper), language="fr")
    english = str(save_tiny_whisper(tmp_path / "tiny.en", is_multilingual=False))
    assert WhisperTranscriber(english, language="en").transcribe([sound(1.0, 0)])[0].language == ""
    with pytest.raises(EncoderError, match="knows English only"):
        WhisperTranscriber(english, language="de")


def test_another_model_is_one_line(checkpoint):
    with pytest.raises(EncoderError, match="is a hubert model, transcripts need Whisper"):
        WhisperTranscriber(str(checkpoint("hubert")))
