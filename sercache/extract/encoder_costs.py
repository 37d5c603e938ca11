"""Arithmetic and disk space that an encoder needs per second of speech, and the throughput of GPUs."""

import re
from dataclasses import dataclass, replace

from sercache.cache.fingerprint import encoder_name
from sercache.encoders.registry import ENCODERS, open_transformers_checkpoint
from sercache.errors import SercacheError, did_you_mean
from sercache.extract.schedule import WORD_PIECES_PER_SECOND

TFLOPS = {
    "A10": 125.0,
    "A100": 312.0,
    "A6000": 155.0,
    "B200": 2250.0,
    "H100": 989.0,
    "H200": 989.0,
    "L4": 121.0,
    "L40S": 362.0,
    "MI300X": 1307.0,
    "RTX3090": 71.0,
    "RTX4090": 165.0,
    "T4": 65.0,
    "V100": 125.0,
}
"""Dense bfloat16 TFLOP/s as their makers publish them (of T4 and V100: float16); no sparsity."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """A number of GPUs of one kind."""

    count: int
    kind: str

    def __str__(self) -> str:
        return f"{self.count} x {self.kind}"

    @property
    def flops(self) -> float:
        """Published FLOP/s of one."""
        return TFLOPS[self.kind] * 1e12


def parse_gpus(text: str) -> Gpus:
    """Return what ``8xA100`` means.

    >>> parse_gpus("8xA100"), parse_gpus("h100")
    (Gpus(count=8, kind='A100'), Gpus(count=1, kind='H100'))

    Raises:
        SercacheError: no such GPU is known.
    """
    match = re.fullmatch(r"(?:(\d+)\s*x\s*)?([a-z][a-z0-9]*)", text.strip().lower().replace("-", ""))
    kinds = {kind.lower(): kind for kind in TFLOPS}
    if match is None or int(match[1] or 1) < 1 or match[2] not in kinds:
        hint = did_you_mean(match[2].upper(), TFLOPS) if match else ""
        raise SercacheError(f"--gpus {text}: write 8xA100; known are {', '.join(TFLOPS)}.{hint}")
    return Gpus(int(match[1] or 1), kinds[match[2]])


_SPEECH_HZ = 50.0
_STORED_BYTES = 2
_CONVOLUTIONS_FLOPS = 5e9
"""FLOPs of the seven convolutions of wav2vec 2.0 and similar models, for a second at 16 kHz."""


@dataclass(frozen=True, slots=True)
class EncoderCost:
    """The work of an encoder for a second of speech.

    Attributes:
        name: of the encoder.
        modality: what it reads.
        flops_per_second: arithmetic for a second of speech, or of its transcript: 2 per weight and frame.
        bytes_per_second: float16 frames of one layer on disk.
        padded_seconds: what every clip is padded to; 0 for none.
        is_network: false for embedded encoders, which run on a CPU, hundreds of times faster than speech.
        num_layers: hidden layers to choose from; 0 where there is nothing to choose.
        dim: features per frame; 0 where it is not known.
    """

    name: str
    modality: str
    flops_per_second: float
    bytes_per_second: float
    padded_seconds: float = 0.0
    is_network: bool = True
    num_layers: int = 0
    dim: int = 0


def _speech(parameters: float, dim: int, num_layers: int) -> EncoderCost:
    flops = 2 * parameters * _SPEECH_HZ + _CONVOLUTIONS_FLOPS
    size = _SPEECH_HZ * dim * _STORED_BYTES
    return EncoderCost("", "audio", flops, size, num_layers=num_layers, dim=dim)


def _text(parameters: float, dim: int, num_layers: int) -> EncoderCost:
    flops = 2 * parameters * WORD_PIECES_PER_SECOND
    size = WORD_PIECES_PER_SECOND * dim * _STORED_BYTES
    return EncoderCost("", "text", flops, size, num_layers=num_layers, dim=dim)


def _whisper(parameters: float, dim: int, num_layers: int) -> EncoderCost:
    flops, size = 2 * parameters * _SPEECH_HZ, _SPEECH_HZ * dim * _STORED_BYTES
    return EncoderCost("", "audio", flops, size, padded_seconds=30.0, num_layers=num_layers, dim=dim)


def _embedded(modality: str, frame_rate_hz: float, dim: int) -> EncoderCost:
    return EncoderCost("", modality, 0.0, frame_rate_hz * dim * _STORED_BYTES, is_network=False, dim=dim)


_KNOWN = {
    "microsoft/wavlm-base-plus": _speech(90e6, 768, 12),
    "microsoft/wavlm-large": _speech(311e6, 1024, 24),
    "facebook/hubert-base-ls960": _speech(90e6, 768, 12),
    "facebook/hubert-large-ll60k": _speech(311e6, 1024, 24),
    "facebook/wav2vec2-large-960h": _speech(311e6, 1024, 24),
    "openai/whisper-large-v3": _whisper(637e6, 1280, 32),
    "openai/whisper-medium": _whisper(307e6, 1024, 24),
    "openai/whisper-small": _whisper(88e6, 768, 12),
    "openai/whisper-base": _whisper(19e6, 512, 6),
    "FacebookAI/roberta-large": _text(303e6, 1024, 24),
    "answerdotai/ModernBERT-large": _text(343e6, 1024, 28),
}
"""Published sizes, without embeddings of words, so that nothing is downloaded to plan with them."""

_EMBEDDED = {
    "logmel": _embedded("audio", _SPEECH_HZ, 125),
    "char-ngrams": _embedded("text", WORD_PIECES_PER_SECOND, 256),
}


def encoder_cost(name: str) -> EncoderCost:
    """Return what an encoder costs: a published one from a table, another from its config.

    Raises:
        EncoderError: there is no such encoder.
    """
    if name in ENCODERS:
        return replace(_EMBEDDED.get(name, _embedded("audio", _SPEECH_HZ, 80)), name=name)
    known = {key.lower(): value for key, value in _KNOWN.items()}
    by_model = {key.rpartition("/")[2]: value for key, value in known.items()}
    found = known.get(name.lower()) or by_model.get(name.lower().removeprefix("random:"))
    return replace(found or _from_config(name), name=encoder_name(name))


def _from_config(name: str) -> EncoderCost:
    import torch
    from transformers import AutoModel

    checkpoint = open_transformers_checkpoint(name)
    config, num_layers = checkpoint.config, checkpoint.num_layers
    with torch.device("meta"):
        model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    dim = int(getattr(config, "hidden_size", None) or config.d_model)
    if config.model_type == "whisper":
        model = model.encoder
    weights = sum(
        weight.numel() for key, weight in model.named_parameters() if "embed" not in key and weight.ndim > 1
    )
    if model.main_input_name == "input_ids":
        return _text(weights, dim, num_layers)
    family = _whisper if config.model_type == "whisper" else _speech
    return family(weights, dim, num_layers)
