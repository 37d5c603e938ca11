"""The cheaper forward pass gives what transformers' own gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sercache.encoders.inference import ClipwiseGroupNorm, prepare_for_inference
from sercache.encoders.registry import load_encoder

Maker = Callable[[str], Path]

SPEECH = ["wavlm", "wavlm+layer", "hubert", "hubert+layer", "wav2vec2", "wav2vec2+layer", "data2vec-audio"]
OTHERS = ["wav2vec2-bert", "whisper", "roberta", "modernbert", "deberta-v2"]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) / 10).astype(np.float32)


def relative_error(frames: torch.Tensor, expected: torch.Tensor) -> float:
    return float((frames - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ["wavlm", "wavlm+layer"])
@pytest.mark.parametrize("seconds", [0.1, 1.0, 21.0])
def test_wavlm_attention_is_that_of_transformers(checkpoint: Maker, kind: str, seconds: float) -> None:
    """21 s are more frames than the bias tells apart (max_distance 800)."""
    from transformers import AutoModel

    theirs, ours = (AutoModel.from_pretrained(checkpoint(kind)).eval() for _ in range(2))
    with torch.no_grad():
        theirs.encoder.layers[0].attention.rel_attn_embed.weight.mul_(5)
        ours.encoder.layers[0].attention.rel_attn_embed.weight.mul_(5)
    prepare_for_inference(ours, "float32")
    waveform = torch.from_numpy(noise(seconds))[None]
    with torch.inference_mode():
        expected = theirs(waveform, output_hidden_states=True)
        found = ours(waveform, output_hidden_states=True)
    for layer, wanted in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert relative_error(layer, wanted) < 1e-5


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")  # of transformers' own attention
def test_wavlm_attention_masks_the_padding_as_transformers_does(checkpoint: Maker) -> None:
    from transformers import AutoModel

    theirs, ours = (AutoModel.from_pretrained(checkpoint("wavlm+layer")).eval() for _ in range(2))
    prepare_for_inference(ours, "float32")
    waveforms = torch.zeros(2, 16_000)
    waveforms[0] = torch.from_numpy(noise(1.0))
    waveforms[1, :7_000] = torch.from_numpy(noise(7_000 / 16_000, 1))
    mask = torch.ones(2, 16_000, dtype=torch.long)
    mask[1, 7_000:] = 0
    with torch.inference_mode():
        expected = theirs(waveforms, attention_mask=mask).last_hidden_state
        found = ours(waveforms, attention_mask=mask).last_hidden_state
    count = int(theirs._get_feat_extract_output_lengths(torch.tensor(7_000)))
    assert relative_error(found[0], expected[0]) < 1e-5
    assert relative_error(found[1, :count], expected[1, :count]) < 1e-5


def test_group_norm_of_a_clip_never_sees_the_padding() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(6, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    clipwise = ClipwiseGroupNorm(norm)
    hidden = torch.randn(3, 6, 40)
    clipwise.lengths = [40, 25, 7]
    together = clipwise(hidden)
    for row, length in enumerate(clipwise.lengths):
        torch.testing.assert_close(together[row, :, :length], norm(hidden[row : row + 1, :, :length])[0])
        assert not together[row, :, length:].any()
    clipwise.lengths = None
    torch.testing.assert_close(clipwise(hidden), norm(hidden))


@pytest.mark.parametrize("kind", [*SPEECH, *OTHERS])
def test_bfloat16_is_near_float32_alone_and_in_batches(checkpoint: Maker, kind: str) -> None:
    exact = load_encoder(str(checkpoint(kind)), "last2")
    coarse = load_encoder(str(checkpoint(kind)), "last2", precision="bfloat16")
    inputs = (
        ["i am so happy", "never say no again"] if exact.spec.modality == "text" else [noise(1.1), noise(0.6)]
    )
    coarse.batch_limit = 1e9
    for frames, expected in zip(coarse.encode(inputs), exact.encode(inputs), strict=True):
        assert frames.dtype == np.float32
        error = relative_error(torch.from_numpy(frames), torch.from_numpy(expected))
        assert 1e-5 < error < 3e-2, "tiny layers round more than real ones"


@pytest.mark.parametrize("kind", [*SPEECH, *OTHERS])
def test_prepared_inputs_give_what_encode_does(checkpoint: Maker, kind: str) -> None:
    encoder = load_encoder(str(checkpoint(kind)))
    inputs = ["yes", "the cat sat"] if encoder.spec.modality == "text" else [noise(0.5), noise(0.8)]
    pending = encoder.begin([encoder.prepare(item) for item in inputs])
    for frames, expected in zip(pending(), encoder.encode(inputs), strict=True):
        np.testing.assert_array_equal(frames, expected)
