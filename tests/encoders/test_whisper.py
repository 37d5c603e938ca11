"""Whisper's encoder: the clip's true length, never the padded 1,500 frames."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.encoders.protocol import Encoder
from sercache.encoders.registry import load_encoder
from sercache.encoders.windows import encode_in_windows
from sercache.errors import EncoderError

Maker = Callable[[str], Path]


@pytest.fixture(scope="module")
def encoder(checkpoint: Maker) -> Encoder:
    return load_encoder(str(checkpoint("whisper")))


def clip(samples: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


def test_two_seconds_are_a_hundred_frames(encoder: Encoder) -> None:
    assert encoder.encode([clip(32_000)])[0].shape == (1, 100, 32)
    assert encoder.spec.frame_rate_hz == 50.0


@settings(max_examples=8, deadline=None)
@given(samples=st.integers(1, 480_000))
def test_one_frame_per_20_ms_begun(encoder: Encoder, samples: int) -> None:
    assert encoder.encode([clip(samples)])[0].shape[1] == -(-samples // 320)


def test_frames_are_those_of_the_clip_padded_to_30_s(checkpoint: Maker) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    folder = checkpoint("whisper")
    waveform = clip(32_000)
    padded = np.pad(waveform, (0, 480_000 - len(waveform)))
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        padded, sampling_rate=16_000, return_tensors="pt"
    )
    with torch.no_grad():
        output = (
            WhisperModel.from_pretrained(folder)
            .eval()
            .encoder(features["input_features"], output_hidden_states=True)
        )
    [frames] = load_encoder(str(folder), "1,last").encode([waveform])
    np.testing.assert_allclose(frames[0], output.hidden_states[1][0, :100], atol=1e-4)
    np.testing.assert_allclose(frames[1], output.last_hidden_state[0, :100], atol=1e-4)


def test_frames_ignore_batch_mates(encoder: Encoder) -> None:
    waveforms = [clip(32_000), clip(5_000), clip(70_001)]
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    encoder.batch_limit = 90.0 * 16_000
    for frames, expected in zip(encoder.encode(waveforms), alone, strict=True):
        np.testing.assert_allclose(frames, expected, atol=1e-4 * np.abs(expected).std())


def test_longer_audio_goes_in_windows(encoder: Encoder) -> None:
    waveform = clip(16_000 * 31 + 77)
    with pytest.raises(EncoderError, match="up to 30 s at once, not 31"):
        encoder.encode([waveform])
    joined = encode_in_windows(encoder, waveform, 30.0, 2.0)
    assert joined.shape[1] == -(-len(waveform) // 320)


def test_decoder_is_not_kept(encoder: Encoder) -> None:
    assert not any("decoder" in name for name, _ in encoder.model.named_parameters())
