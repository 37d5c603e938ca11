"""A tiny Whisper with random weights and a real tokenizer of words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sercache.corpus import Corpus, Utterance

SPECIAL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>",
    "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip
WORDS = ("so", "what", "are", "you", "saying", "now", "no", "never", "yes", "please", "stop", "it", "was")
RATE_HZ = 16_000


def save_tiny_whisper(folder: Path, *, is_multilingual: bool = True) -> Path:
    import torch
    import transformers as t
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # as in the published tokenizers: words, then special tokens, the last of them <|notimestamps|>
    vocabulary = {word: index for index, word in enumerate([*WORDS, *SPECIAL, "<|0.00|>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    end = vocabulary["<|endoftext|>"]
    torch.manual_seed(1)
    config = t.WhisperConfig(
        vocab_size=len(vocabulary), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_target_positions=40,
        pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=vocabulary["<|startoftranscript|>"], num_mel_bins=80,
    )  # fmt: skip
    model: Any = t.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(25)  # so that what it hears decides what it writes
    model.generation_config = t.GenerationConfig(
        is_multilingual=is_multilingual,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
    )
    model.save_pretrained(folder)
    wrapped = t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[1:],
    )  # fmt: skip
    wrapped.save_pretrained(folder)
    t.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whisper(tmp_path_factory.mktemp("models") / "tiny-whisper")


def sound(seconds: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = np.sin(2 * np.pi * generator.uniform(80, 2000) * time) * generator.uniform(0.1, 0.4)
    return (tone + generator.normal(size=len(time)) * 0.02).astype(np.float32)


@pytest.fixture
def make_spoken(tmp_path):
    """Write clips of these lengths; returns their corpus."""

    def make(*seconds: float) -> Corpus:
        rows = []
        for number, length in enumerate(seconds):
            soundfile.write(tmp_path / f"{number}.wav", sound(length, number), RATE_HZ, subtype="PCM_16")
            rows.append(Utterance(id=f"clip-{number}", audio=f"{number}.wav", extras={"note": f"n{number}"}))
        return Corpus((), (), tuple(rows), tmp_path)

    return make
