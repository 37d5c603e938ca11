"""Encoders by name: embedded ones, and families of transformers models."""

from collections.abc import Callable
from typing import Any

from sercache.cache.layers import LayerSelection, parse_layers
from sercache.encoders.checkpoint import Checkpoint, open_checkpoint
from sercache.encoders.protocol import Encoder, Precision
from sercache.encoders.random_weights import PREFIX, open_random_checkpoint
from sercache.errors import EncoderError, did_you_mean
from sercache.registry import Registry

Family = Callable[[Checkpoint, Any, LayerSelection, str, Precision], Encoder]
"""``(checkpoint, model, selection, device, precision) -> Encoder``."""

ENCODERS: Registry[Callable[[], Encoder]] = Registry(
    "encoder",
    {
        "char-ngrams": "sercache.encoders.char_ngrams:CharNgramsEncoder",
        "logmel": "sercache.encoders.logmel:LogMelEncoder",
    },
    EncoderError,
)
"""Embedded encoders: no download, and no layers to choose from."""

FAMILIES: Registry[Family] = Registry(
    "encoder_family",
    {
        "whisper": "sercache.encoders.whisper:WhisperEncoder",
        "input_features": "sercache.encoders.speech:SpeechEncoder",
        "input_ids": "sercache.encoders.text:TextEncoder",
        "input_values": "sercache.encoders.speech:SpeechEncoder",
    },
    EncoderError,
)
"""Families by the ``model_type`` of a checkpoint's config, or else by what its model reads."""


def load_encoder(
    name: str,
    layers: str = "last",
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    trust_remote_code: bool = False,
    revision: str | None = None,
    trainable: bool = False,
) -> Encoder:
    """Load an encoder, ready to encode.

    Args:
        name: ``logmel``, ``char-ngrams``, a name on the Hugging Face hub, the folder of a checkpoint, or
            ``random:`` and an architecture (for benchmarks; see :mod:`~sercache.encoders.random_weights`).
        layers: which layers to keep; see :func:`sercache.cache.layers.parse_layers`.
        device: where a transformers model computes, as torch names it (``cpu``, ``cuda:1``).
        precision: how a transformers model computes; frames are float32 in any case.
        trust_remote_code: let Python code that comes with a checkpoint run.
        revision: of the hub: a commit, branch or tag; None is what the hub gives today.
        trainable: keep the weights in float32 and in modules that pass gradients on; the frames are the same.

    Raises:
        EncoderError: there is no such encoder or layer, or it cannot be loaded; one line says why.
    """
    if name in ENCODERS:
        parse_layers(layers, num_layers=0)
        return ENCODERS[name]()
    from sercache.encoders.inference import prepare_for_inference, prepare_for_training  # torch

    checkpoint = open_transformers_checkpoint(name, trust_remote_code=trust_remote_code, revision=revision)
    selection = parse_layers(layers, checkpoint.num_layers)
    model = checkpoint.load_model()
    if checkpoint.model_type in FAMILIES:
        family = FAMILIES[checkpoint.model_type]
    elif checkpoint.config.is_encoder_decoder or model.main_input_name not in FAMILIES:
        raise EncoderError(
            f"encoder '{name}': a {checkpoint.model_type} model is not an encoder of speech or text"
        )
    else:
        family = FAMILIES[model.main_input_name]
    if trainable:
        prepare_for_training(model)
    else:
        prepare_for_inference(model, precision)
    return family(checkpoint, model, selection, device, precision)


def check_encoder(name: str, layers: str = "last", *, trust_remote_code: bool = False) -> None:
    """Make sure that an encoder and its layers exist, without loading its weights.

    Raises:
        EncoderError: as :func:`load_encoder` does, but for what only the weights tell.
    """
    if name in ENCODERS:
        parse_layers(layers, num_layers=0)
    else:
        checkpoint = open_transformers_checkpoint(name, trust_remote_code=trust_remote_code)
        parse_layers(layers, checkpoint.num_layers)


def open_transformers_checkpoint(
    name: str, *, trust_remote_code: bool = False, revision: str | None = None
) -> Checkpoint:
    """Return the checkpoint that a hub name, a folder or ``random:`` and an architecture stands for.

    Raises:
        EncoderError: there is none; one line says why, and names the embedded encoder nearest to it.
    """
    if name.startswith(PREFIX):
        return open_random_checkpoint(name)
    try:
        return open_checkpoint(name, trust_remote_code=trust_remote_code, revision=revision)
    except EncoderError as error:
        raise EncoderError(f"{error}{did_you_mean(name, ENCODERS)}") from error
