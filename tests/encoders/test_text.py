"""Text encoders: every word has its frames, special tokens have none, nothing is cut off."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sercache.encoders.registry import load_encoder
from sercache.errors import EncoderError

Maker = Callable[[str], Path]

FAMILIES = ["roberta", "xlm-roberta", "bert", "deberta-v2", "modernbert"]
TEXTS = ["I am so happy now", "no", "never say again", "the cat sat on the mat and then it left", "yes yes"]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("layers", ["last", "last3", "all"])
def test_frames_ignore_batch_mates(checkpoint: Maker, kind: str, layers: str) -> None:
    encoder = load_encoder(str(checkpoint(kind)), layers)
    together = encoder.encode(TEXTS)
    for text, frames in zip(TEXTS, together, strict=True):
        [alone] = encoder.encode([text])
        assert frames.shape == alone.shape == (len(encoder.spec.layers), len(text.split()), 32)
        assert np.abs(frames - alone).max() / np.abs(alone).std() < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_frames_equal_transformers_on_one_text(checkpoint: Maker, kind: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = checkpoint(kind)
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        output = AutoModel.from_pretrained(folder).eval()(**inputs, output_hidden_states=True)
    [everything] = load_encoder(str(folder), "all").encode([TEXTS[0]])
    expected = [*output.hidden_states[:3], output.last_hidden_state]
    for plane, state in zip(everything, expected, strict=True):
        np.testing.assert_allclose(plane, state[0, 1:-1], atol=1e-4)


def test_one_word_is_one_frame(checkpoint: Maker) -> None:
    [frames] = load_encoder(str(checkpoint("roberta"))).encode(["yes"])
    assert frames.shape == (1, 1, 32)
    assert np.abs(frames).min() > 0


def test_special_tokens_go_by_their_mask_not_their_place(checkpoint: Maker, tmp_path: Path) -> None:
    """A tokenizer that adds nothing: then the first and the last word are no special tokens."""
    import json
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(checkpoint("bert"), folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    [frames] = load_encoder(str(folder)).encode(["never say again"])
    assert frames.shape == (1, 3, 32)


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
@pytest.mark.parametrize("words", [62, 63, 100, 333])
def test_long_text_is_read_in_windows_to_its_end(checkpoint: Maker, kind: str, words: int) -> None:
    encoder = load_encoder(str(checkpoint(kind)))
    text = " ".join(TEXTS[3].split()[index % 10] for index in range(words))
    [frames] = encoder.encode([text])
    assert frames.shape == (1, words, 32)
    window = 62
    [start] = encoder.encode([" ".join(text.split()[:window])])
    unshared = window - 16
    np.testing.assert_allclose(frames[:, :unshared], start[:, :unshared], atol=1e-4)
    assert np.isfinite(frames).all()


def test_checkpoint_positions_bound_the_window(checkpoint: Maker, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "boundless"
    shutil.copytree(checkpoint("roberta"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 10**30}))
    encoder = load_encoder(str(folder))
    assert encoder.spec.options["longest"] == 64
    assert encoder.encode(["yes " * 200])[0].shape == (1, 200, 32)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_empty_text_is_an_error(checkpoint: Maker, text: str) -> None:
    with pytest.raises(EncoderError, match="no token"):
        load_encoder(str(checkpoint("roberta"))).encode(["fine", text])


def test_audio_is_refused(checkpoint: Maker) -> None:
    with pytest.raises(EncoderError, match="reads text"):
        load_encoder(str(checkpoint("bert"))).encode([np.ones(4, np.float32)])
