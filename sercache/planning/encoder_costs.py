"""What a second of speech costs an encoder in arithmetic, and how much it leaves on disk."""

from dataclasses import dataclass

from sercache.cache.matching import encoder_name
from sercache.encoders.registry import ENCODERS, open_transformers_checkpoint
from sercache.extract.plan import WORD_PIECES_PER_SECOND

_SPEECH_HZ = 50.0
_STORED_BYTES = 2
_CONVOLUTIONS_FLOPS = 5e9
"""Of the seven convolutions of wav2vec 2.0 and its kin, for a second at 16 kHz."""


@dataclass(frozen=True, slots=True)
class EncoderCost:
    """One encoder's work for speech.

    Attributes:
        name: of the encoder.
        modality: what it reads.
        flops_per_second: arithmetic for a second of speech (or what is said in it): 2 per weight and frame.
        bytes_per_second: float16 frames of one layer on disk.
        padded_seconds: what every clip is padded to; 0 for none.
        is_network: false for embedded encoders, which run on a CPU, hundreds of times faster than speech.
    """

    name: str
    modality: str
    flops_per_second: float
    bytes_per_second: float
    padded_seconds: float = 0.0
    is_network: bool = True


def _speech(parameters: float, dim: int) -> tuple[str, float, float, float]:
    flops = 2 * parameters * _SPEECH_HZ + _CONVOLUTIONS_FLOPS
    return "audio", flops, _SPEECH_HZ * dim * _STORED_BYTES, 0.0


def _text(parameters: float, dim: int) -> tuple[str, float, float, float]:
    flops = 2 * parameters * WORD_PIECES_PER_SECOND
    return "text", flops, WORD_PIECES_PER_SECOND * dim * _STORED_BYTES, 0.0


def _whisper(parameters: float, dim: int) -> tuple[str, float, float, float]:
    return "audio", 2 * parameters * _SPEECH_HZ, _SPEECH_HZ * dim * _STORED_BYTES, 30.0


_KNOWN = {
    "microsoft/wavlm-base-plus": _speech(90e6, 768),
    "microsoft/wavlm-large": _speech(311e6, 1024),
    "facebook/hubert-base-ls960": _speech(90e6, 768),
    "facebook/hubert-large-ll60k": _speech(311e6, 1024),
    "facebook/wav2vec2-large-960h": _speech(311e6, 1024),
    "openai/whisper-large-v3": _whisper(637e6, 1280),
    "openai/whisper-medium": _whisper(307e6, 1024),
    "openai/whisper-small": _whisper(88e6, 768),
    "FacebookAI/roberta-large": _text(303e6, 1024),
    "answerdotai/ModernBERT-large": _text(343e6, 1024),
}
"""Published sizes, without embeddings of words, so that nothing is downloaded to plan with them."""

_EMBEDDED = {"logmel": ("audio", 100.0 * 80 * 2), "char-ngrams": ("text", WORD_PIECES_PER_SECOND * 256 * 2)}


def encoder_cost(name: str) -> EncoderCost:
    """Return what an encoder costs: a published one from a table, another from its config.

    Raises:
        EncoderError: there is no such encoder.
    """
    if name in ENCODERS:
        modality, size = _EMBEDDED.get(name, ("audio", _SPEECH_HZ * 80 * _STORED_BYTES))
        return EncoderCost(name, modality, 0.0, size, is_network=False)
    known = {key.lower(): value for key, value in _KNOWN.items()}
    by_model = {key.rpartition("/")[2]: value for key, value in known.items()}
    found = known.get(name.lower()) or by_model.get(name.lower().removeprefix("random:"))
    if found is None:
        found = _from_config(name)
    modality, flops, size, padded = found
    return EncoderCost(encoder_name(name), modality, flops, size, padded)


def _from_config(name: str) -> tuple[str, float, float, float]:
    import torch
    from transformers import AutoModel

    config = open_transformers_checkpoint(name).config
    with torch.device("meta"):
        model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    dim = int(getattr(config, "hidden_size", None) or config.d_model)
    if config.model_type == "whisper":
        model = model.encoder
    weights = sum(one.numel() for key, one in model.named_parameters() if "embed" not in key and one.ndim > 1)
    if model.main_input_name == "input_ids":
        return _text(weights, dim)
    return _whisper(weights, dim) if config.model_type == "whisper" else _speech(weights, dim)
