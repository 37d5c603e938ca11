"""Tiny checkpoints of the real classes, with random weights, written by ``save_pretrained``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16, 16, 16, 16, 16),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 7,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}
SENTENCE = "i am so happy sad angry now never say again yes no the cat sat on a mat and then it left"

Maker = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Give the folder of a tiny checkpoint by its kind; each is made once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            save_tiny_checkpoint(kind, folder)
        return folder

    return make


def save_tiny_checkpoint(kind: str, folder: Path) -> None:
    """Write a model of a kind such as ``wavlm+layer``, always of the same weights."""
    import torch
    import transformers as t

    torch.manual_seed(7)
    family, _, variant = kind.partition("+")
    speech = SPEECH | (LAYER_NORM if variant in ("layer", "raw") else {})
    speech |= {"add_adapter": True, "num_adapter_layers": 1} if variant == "adapter" else {}
    kinds: dict[str, Callable[[], Any]] = {
        "wavlm": lambda: t.WavLMModel(t.WavLMConfig(**speech)),
        "hubert": lambda: t.HubertModel(t.HubertConfig(**speech)),
        "wav2vec2": lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**speech)),
        "data2vec-audio": lambda: t.Data2VecAudioModel(
            t.Data2VecAudioConfig(**SPEECH, num_conv_pos_embedding_layers=2, conv_pos_kernel_size=7)
        ),
        "wav2vec2-bert": lambda: t.Wav2Vec2BertModel(
            t.Wav2Vec2BertConfig(
                hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
                feature_projection_input_dim=160, add_adapter=variant == "adapter", output_hidden_size=32,
            )
        ),
        "whisper": lambda: t.WhisperModel(
            t.WhisperConfig(
                d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=64,
                num_mel_bins=80, max_source_positions=1500, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=1,
            )
        ),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**TEXT, vocab_size=64, pad_token_id=1)),
        "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**TEXT, vocab_size=64, pad_token_id=1)),
        "bert": lambda: t.BertModel(t.BertConfig(**TEXT, vocab_size=64, pad_token_id=1)),
        "deberta-v2": lambda: t.DebertaV2Model(
            t.DebertaV2Config(
                **TEXT, vocab_size=64, pad_token_id=1, relative_attention=True, pos_att_type=["p2c", "c2p"],
                position_biased_input=False,
            )
        ),
        "modernbert": lambda: t.ModernBertModel(
            t.ModernBertConfig(
                **TEXT, vocab_size=64, pad_token_id=1, bos_token_id=0, eos_token_id=2, cls_token_id=0,
                sep_token_id=2, local_attention=8,
            )
        ),
    }  # fmt: skip
    model = kinds[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # small random weights would hide errors behind the residual path
    model.save_pretrained(folder)
    if family == "whisper":
        t.WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    elif family == "wav2vec2-bert":
        t.SeamlessM4TFeatureExtractor().save_pretrained(folder)
    elif family in ("roberta", "xlm-roberta", "bert", "deberta-v2", "modernbert"):
        _tokenizer().save_pretrained(folder)
    else:
        t.Wav2Vec2FeatureExtractor(do_normalize=variant == "layer").save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *SENTENCE.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", model_max_length=64,
    )  # fmt: skip


def inputs_of(encoder):
    """Return two inputs of an encoder of speech or of text."""
    if encoder.spec.modality == "text":
        texts = ["i am so happy", "never say again yes no"]
    else:
        rng = np.random.default_rng(1)
        texts = [(rng.standard_normal(samples) / 10).astype(np.float32) for samples in (9_000, 6_001)]
    return [encoder.prepare(text) for text in texts]
