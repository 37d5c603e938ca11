import math

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sercache.cache.usage import EncodingSpeed, add_speed
from sercache.corpus.manifest import read_corpus
from sercache.errors import SercacheError
from sercache.extract.encoder_costs import TFLOPS, EncoderCost, Gpus, encoder_cost, parse_gpus
from sercache.extract.plan import Facility, assumed_speech, measure_speech, plan_scale

WAVLM = "microsoft/wavlm-large"


@given(st.floats(1, 1e6), st.integers(1, 64), st.sampled_from(sorted(TFLOPS)))
def test_more_gpus_take_fewer_hours_and_the_slowest_resource_decides(hours, count, kind):
    speech, costs = assumed_speech(hours), [encoder_cost(WAVLM)]
    single = plan_scale(speech, costs, Facility(Gpus(1, kind), 8))
    more = plan_scale(speech, costs, Facility(Gpus(count, kind), 8))
    assert more.hours["GPU"] == pytest.approx(single.hours["GPU"] / count)
    assert more.wall_hours == max(more.hours.values()) == more.hours[more.bottleneck]
    assert more.stored_bytes == single.stored_bytes


def test_the_sum_for_one_encoder_is_what_one_would_write_on_paper():
    cost = EncoderCost("x", "audio", flops_per_second=3e10, bytes_per_second=100_000)
    found = plan_scale(assumed_speech(1000.0), [cost], Facility(Gpus(4, "A100"), 32))
    assert found.gpu_hours["x"] == pytest.approx(1000 * 3e10 / (312e12 * 0.35))
    assert found.stored_bytes["x"] == 3.6e6 * 1e5
    assert found.hours["disk"] == pytest.approx((3.6e11 + 3.6e6 * 32_000) / 1e9 / 3600)


def test_a_measured_speed_takes_the_place_of_the_sum():
    found = plan_scale(
        assumed_speech(100.0), [encoder_cost(WAVLM)], Facility(Gpus(1, "A100"), 8), {WAVLM: 1000.0}
    )
    assert found.gpu_hours[WAVLM] == pytest.approx(0.1)


def test_whisper_pays_for_the_silence_that_it_pads_with():
    whisper = encoder_cost("openai/whisper-large-v3")
    short, long = assumed_speech(10, clip_seconds=5), assumed_speech(10, clip_seconds=30)
    facility = Facility(Gpus(1, "A100"), 8)
    hours = [plan_scale(single, [whisper], facility).gpu_hours[whisper.name] for single in (short, long)]
    assert hours[0] == pytest.approx(6 * hours[1])


def test_a_checkpoint_that_is_not_in_the_table_is_counted(checkpoint):
    found = encoder_cost(str(checkpoint("wavlm+layer")))
    assert found.modality == "audio"
    assert found.bytes_per_second == 50 * 32 * 2
    assert encoder_cost(str(checkpoint("roberta"))).modality == "text"
    assert encoder_cost("logmel").flops_per_second == 0


def test_a_corpus_is_measured(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=32_000) / 9, 16_000)
    (tmp_path / "corpus.csv").write_text("id,audio\na,a.wav\nb,a.wav\n")
    speech = measure_speech(read_corpus(tmp_path / "corpus.csv"))
    assert (speech.utterances, speech.seconds, speech.padded_seconds) == (2, 4.0, 60.0)
    assert speech.audio_bytes == pytest.approx(2 * (tmp_path / "a.wav").stat().st_size)
    assert speech.is_decoding_measured
    assert math.isfinite(speech.decoding)


@pytest.mark.parametrize("text", ["", "8x", "8xA1000", "0xA100", "x"])
def test_unknown_gpus_are_refused(text):
    with pytest.raises(SercacheError, match="--gpus"):
        parse_gpus(text)


def test_speeds_of_a_cache_are_scaled_by_the_kinds_of_gpu(tmp_path):
    from sercache.benchmarks.synthetic import synthetic_feature_set
    from sercache.extract.plan import measured_speeds

    feature_set = synthetic_feature_set(tmp_path, 5, 3, 2)
    add_speed(feature_set.folder, "cuda", EncodingSpeed(1000.0, 2.0))
    found = measured_speeds(tmp_path, Gpus(1, "A100"), Gpus(8, "H100"))
    assert found == {"synthetic": pytest.approx(500 * 989 / 312)}
