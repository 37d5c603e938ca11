"""``random:<architecture>``: encoders of real size without weights, for benchmarks and tests only.

The architecture is the real one, the weights are random but always the same, nothing is downloaded. Feature
sets made with them say so in their encoder's name, and training warns of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sercache.encoders.checkpoint import Checkpoint, quiet_transformers
from sercache.errors import EncoderError, did_you_mean

PREFIX = "random:"
_SEED = 20250611

_BASE_SPEECH = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE_SPEECH = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}
_BASE_TEXT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE_TEXT = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_BYTE_TOKENS = {"vocab_size": 50_265, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_MODERNBERT = _BYTE_TOKENS | {"cls_token_id": 0, "sep_token_id": 2}


def _whisper(width: int, layers: int, heads: int, mel_bands: int = 80) -> dict[str, Any]:
    return {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_layers": 1,
        "decoder_attention_heads": heads,
        "decoder_ffn_dim": 4 * width,
        "num_mel_bins": mel_bands,
        "num_hidden_layers": layers,
    }


ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "hubert-base": ("hubert", _BASE_SPEECH),
    "hubert-large": ("hubert", _LARGE_SPEECH),
    "wav2vec2-base": ("wav2vec2", _BASE_SPEECH),
    "wav2vec2-large": ("wav2vec2", _LARGE_SPEECH),
    "wavlm-base": ("wavlm", _BASE_SPEECH),
    "wavlm-large": ("wavlm", _LARGE_SPEECH),
    "whisper-base": ("whisper", _whisper(512, 6, 8)),
    "whisper-small": ("whisper", _whisper(768, 12, 12)),
    "whisper-medium": ("whisper", _whisper(1024, 24, 16)),
    "whisper-large-v3": ("whisper", _whisper(1280, 32, 20, mel_bands=128)),
    "roberta-base": ("roberta", _BASE_TEXT | _BYTE_TOKENS | {"max_position_embeddings": 514}),
    "roberta-large": ("roberta", _LARGE_TEXT | _BYTE_TOKENS | {"max_position_embeddings": 514}),
    "modernbert-base": ("modernbert", _MODERNBERT | {"num_hidden_layers": 22}),
    "modernbert-large": (
        "modernbert",
        _MODERNBERT
        | {
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "intermediate_size": 2624,
        },
    ),
}
"""Sizes as published: transformers' model type, and what differs from its default configuration."""


@dataclass(frozen=True, slots=True)
class RandomCheckpoint(Checkpoint):
    """A checkpoint of a real architecture whose weights are drawn, not loaded."""

    def load_model(self) -> Any:
        """Return the model in float32, in evaluation mode, on the CPU; always with the same weights."""
        import torch
        from transformers import AutoModel

        build: Callable[..., Any] = AutoModel.from_config
        with torch.random.fork_rng(devices=()), quiet_transformers():
            torch.manual_seed(_SEED)
            return build(self.config).eval().requires_grad_(False)

    def load_feature_extractor(self) -> Any:
        """Return the feature extractor that comes with the published model."""
        import transformers

        kinds: Any = transformers
        if self.model_type == "whisper":
            return kinds.WhisperFeatureExtractor(feature_size=self.config.num_mel_bins)
        is_normalized = self.config.feat_extract_norm == "layer"
        return kinds.Wav2Vec2FeatureExtractor(do_normalize=is_normalized, return_attention_mask=is_normalized)

    def load_tokenizer(self) -> Any:
        """Return a tokenizer of bytes: four times as many tokens as the published one would make."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        special = {"<s>": 0, "<pad>": 1, "</s>": 2}
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = special | {byte: index for index, byte in enumerate(alphabet, len(special))}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        wrap: Callable[..., Any] = PreTrainedTokenizerFast
        return wrap(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>")


def open_random_checkpoint(name: str) -> RandomCheckpoint:
    """Return the checkpoint that ``random:<architecture>`` names.

    Raises:
        EncoderError: there is no such architecture.
    """
    architecture = name.removeprefix(PREFIX)
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise EncoderError(
            f"encoder '{name}': no architecture '{architecture}' (there are: {known})."
            f"{did_you_mean(architecture, ARCHITECTURES)}"
        )
    from transformers import AutoConfig

    model_type, changes = ARCHITECTURES[architecture]
    build: Callable[..., Any] = AutoConfig.for_model
    config = build(model_type, **changes)
    return RandomCheckpoint(name, name, f"seed {_SEED}", True, config, False)


def has_random_weights(encoder: str) -> bool:
    """Return whether an encoder's name is that of one without trained weights."""
    return encoder.startswith(PREFIX)
