"""Speech encoders: frames that ignore batch mates, equal transformers' own, and come from the right layer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sercache.audio import load_audio
from sercache.encoders.registry import load_encoder
from sercache.encoders.windows import encode_in_windows
from sercache.errors import EncoderError

Maker = Callable[[str], Path]

FAMILIES = [
    "wavlm", "wavlm+layer", "hubert", "hubert+layer", "wav2vec2", "wav2vec2+layer", "data2vec-audio",
    "wav2vec2-bert",
]  # fmt: skip


def clips(*seconds: float) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [(0.1 * rng.standard_normal(round(s * 16_000)) + 0.02).astype(np.float32) for s in seconds]


def relative_error(frames: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(frames - expected).max() / np.abs(expected).std())


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("layers", ["last", "last3", "all"])
def test_frames_ignore_batch_mates(checkpoint: Maker, kind: str, layers: str) -> None:
    encoder = load_encoder(str(checkpoint(kind)), layers)
    waveforms = clips(1.0, 0.31, 2.2, 0.1, 1.0)
    alone = [encoder.encode([waveform])[0] for waveform in waveforms]
    encoder.batch_limit = 60.0 * 16_000
    for frames, expected in zip(encoder.encode(waveforms), alone, strict=True):
        assert frames.shape == expected.shape
        assert frames.dtype == np.float32
        assert relative_error(frames, expected) < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_frames_equal_transformers_on_one_clip(checkpoint: Maker, kind: str) -> None:
    from transformers import AutoFeatureExtractor, AutoModel

    folder = checkpoint(kind)
    [waveform] = clips(1.3)
    inputs = AutoFeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=16_000, return_tensors="pt")
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    [last] = load_encoder(str(folder)).encode([waveform])
    [everything] = load_encoder(str(folder), "all").encode([waveform])
    [summed] = load_encoder(str(folder), "last3").encode([waveform])
    count = last.shape[1]
    expected_last = output.last_hidden_state[0, :count].numpy()
    hidden = np.stack([state[0, :count].numpy() for state in output.hidden_states])
    assert relative_error(last[0], expected_last) < 1e-4
    assert relative_error(everything[:3], hidden[:3]) < 1e-4
    assert relative_error(everything[3], expected_last) < 1e-4
    assert relative_error(summed[0], hidden[1] + hidden[2] + expected_last) < 1e-4


@pytest.mark.parametrize("kind", ["wavlm+layer", "hubert+layer", "wav2vec2+layer"])
def test_canary_last_hidden_state_comes_after_the_final_norm(checkpoint: Maker, kind: str) -> None:
    """``hidden_states[-1]`` has changed sides of the final norm before; ``last_hidden_state`` must not."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint(kind)).eval()
    with torch.no_grad():
        output = model(torch.from_numpy(clips(0.5)[0])[None], output_hidden_states=True)
        normed = model.encoder.layer_norm(output.hidden_states[-1])
    torch.testing.assert_close(normed, output.last_hidden_state)
    assert not torch.allclose(output.hidden_states[-1], output.last_hidden_state, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "normalization"), [("hubert+layer", "zero mean, unit variance"), ("hubert+raw", "none")]
)
def test_normalization_follows_the_checkpoint(checkpoint: Maker, kind: str, normalization: str) -> None:
    encoder = load_encoder(str(checkpoint(kind)))
    [waveform] = clips(1.0)
    plain, shifted = encoder.encode([waveform, 3 * waveform + 0.5])
    assert encoder.spec.normalization == normalization
    assert (relative_error(shifted, plain) < 1e-3) == (normalization != "none")


def test_spec(checkpoint: Maker) -> None:
    spec = load_encoder(str(checkpoint("wavlm+layer")), "last2").spec
    assert spec.encoder == "wavlm+layer"
    assert (spec.modality, spec.num_layers, spec.dim, spec.layers) == ("audio", 3, 32, ("sum-2-3",))
    assert (spec.frame_rate_hz, spec.sample_rate_hz, spec.dtype) == (50.0, 16_000, None)
    assert spec.library.startswith("transformers ")


def test_filter_bank_encoder_finds_its_frame_rate(checkpoint: Maker) -> None:
    assert load_encoder(str(checkpoint("wav2vec2-bert"))).spec.frame_rate_hz == 50.0


@pytest.mark.parametrize("kind", ["wav2vec2-bert+adapter", "wav2vec2+adapter"])
def test_adapter_is_left_out(checkpoint: Maker, kind: str) -> None:
    encoder = load_encoder(str(checkpoint(kind)), "2,last")
    [frames] = encoder.encode(clips(2.0))
    assert frames.shape == (2, 99, 32)


def test_bfloat16_is_near_float32_and_another_feature_set(checkpoint: Maker) -> None:
    folder = str(checkpoint("hubert+layer"))
    exact, coarse = load_encoder(folder), load_encoder(folder, precision="bfloat16")
    [waveform] = clips(1.0)
    [expected], [frames] = exact.encode([waveform]), coarse.encode([waveform])
    assert frames.dtype == np.float32
    assert 0 < np.abs(frames - expected).mean() / expected.std() < 0.05
    assert exact.spec.fingerprint != coarse.spec.fingerprint


def test_too_short_clip_and_text_are_errors(checkpoint: Maker) -> None:
    encoder = load_encoder(str(checkpoint("wavlm")))
    with pytest.raises(EncoderError, match="shorter than one frame"):
        encoder.encode([np.ones(399, np.float32)])
    with pytest.raises(EncoderError, match="reads audio"):
        encoder.encode(["hello"])


def test_windows_are_as_long_as_a_single_pass(checkpoint: Maker) -> None:
    encoder = load_encoder(str(checkpoint("wavlm+layer")))
    [waveform] = clips(3.37)
    whole = encoder.encode([waveform])[0]
    assert encode_in_windows(encoder, waveform, 1.0, 0.2).shape == whole.shape


def test_real_checkpoint_with_its_own_code(shared_data: Path) -> None:
    encoder = load_encoder(str(shared_data / "weights" / "kwt1"), "last4", trust_remote_code=True)
    assert encoder.spec.frame_rate_hz == 98.0
    assert encoder.spec.layers == ("sum-9-12",)
    recordings = sorted((shared_data / "emodb" / "audio").iterdir())[:4]
    waveforms = [load_audio(path, encoder.spec.sample_rate_hz) for path in recordings]
    together = encoder.encode(waveforms)
    for waveform, frames in zip(waveforms, together, strict=True):
        assert frames.shape[0] == 1
        assert frames.shape[2] == 64
        assert abs(frames.shape[1] - 98 * len(waveform) / 16_000) <= 3
        np.testing.assert_array_equal(frames, encoder.encode([waveform])[0])
        assert np.isfinite(encode_in_windows(encoder, waveform, 1.0, 0.25)).all()
