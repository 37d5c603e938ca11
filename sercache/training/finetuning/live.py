"""Feature sets that are computed anew while their encoder changes, and what a head reads of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.layers import parse_layers
from sercache.cache.store import FeatureSet
from sercache.corpus import Corpus
from sercache.encoders.protocol import Encoder, Precision, TransformersEncoder
from sercache.encoders.registry import ENCODERS, load_encoder
from sercache.errors import TrainingError
from sercache.events import Event, Listener
from sercache.extract.resolve import refuse_changed
from sercache.heads.protocol import HeadInput
from sercache.recipe import FeatureRecipe, FinetuningRecipe
from sercache.training.finetuning.layers import TrainedLayers

_PIECES_PER_SECOND = 4.0
"""Word pieces that are taken for a second of audio when batches are measured: about what people speak."""


@dataclass(frozen=True)
class LiveFeature:
    """A feature set of a member whose encoder is trained.

    Attributes:
        name: the recipe's name of it.
        feature_set: what the cache holds of it: the frames that the head was trained on.
        corpus: with the text that this encoder reads.
        encoder: the encoder, trainable.
        trained: what of the encoder is trained.
        precision: what the encoder computes in.
    """

    name: str
    feature_set: FeatureSet
    corpus: Corpus
    encoder: TransformersEncoder
    trained: TrainedLayers
    precision: Precision

    @property
    def spec(self) -> FeatureSpec:
        """The spec of the feature set."""
        return self.feature_set.spec

    def seconds(self, frame_counts: NDArray[np.int64], max_seconds: float) -> NDArray[np.float64]:
        """Return how much of a batch clips of so many frames take, cut to ``max_seconds``, ``(N,)``."""
        rate_hz = self.spec.frame_rate_hz or _PIECES_PER_SECOND
        seconds = np.minimum(frame_counts * self.spec.time_pool / rate_hz, max_seconds)
        fixed = self.encoder.fixed_seconds
        return seconds if fixed is None else np.where(seconds > 0, np.maximum(seconds, fixed), 0.0)


def why_not_trainable(recipe: FeatureRecipe) -> str:
    """Return why a feature set's encoder cannot be trained further, or nothing."""
    if recipe.encoder in ENCODERS:
        return f"the embedded encoder {recipe.encoder} has learnt nothing that could be trained further"
    if recipe.trust_remote_code:
        return f"{recipe.encoder} comes with its own Python code, whose layers sercache does not know"
    return ""


def open_live_feature(
    name: str,
    recipe: FeatureRecipe,
    feature_set: FeatureSet,
    corpus: Corpus,
    settings: FinetuningRecipe,
    device: str,
    precision: Precision,
    seed: int,
    listener: Listener,
) -> LiveFeature:
    """Load the encoder that made a feature set, ready to be trained.

    Raises:
        EncoderError: it cannot be loaded.
        TrainingError: it is not the encoder that made the feature set, or cannot be trained as asked.
        CacheError: audio or texts are no longer those that were extracted.
    """
    if reason := why_not_trainable(recipe):
        raise TrainingError(f"feature set '{name}': {reason}")
    encoder: Encoder = load_encoder(
        recipe.encoder, recipe.layers, device=device, precision=precision, trainable=True
    )
    _refuse_other_encoder(name, encoder.spec, feature_set.spec)
    if encoder.spec.library != feature_set.spec.library:
        message = (
            f"feature set '{name}' was extracted with {feature_set.spec.library}, this is "
            f"{encoder.spec.library}: its frames may differ from those that the head knows"
        )
        listener(Event("warning", name, message=message))
    if recipe.text_column is not None:
        corpus = corpus.with_text_of(recipe.text_column)
    refuse_changed(feature_set, corpus)
    if not isinstance(encoder, TransformersEncoder):
        raise TrainingError(f"feature set '{name}': {recipe.encoder} is no model of transformers")
    kept = parse_layers(recipe.layers, encoder.spec.num_layers)
    top = max(layer for group in kept.groups for layer in group)
    trained = TrainedLayers(encoder, top, settings, seed)
    encoder.model.to(device)  # LoRA's weights are made on the CPU
    return LiveFeature(name, feature_set, corpus, encoder, trained, precision)


def pooled(frames: Tensor, count: int) -> Tensor:
    """Average every ``count`` frames of ``(L, T, D)`` into one, as extraction does, with gradients.

    >>> pooled(torch.tensor([[[1.0], [3.0], [8.0]]]), 2).tolist()
    [[[2.0], [8.0]]]
    """
    whole = frames.shape[1] // count * count
    if count == 1 or not frames.shape[1]:
        return frames
    planes, _, dim = frames.shape
    parts = [frames[:, :whole].reshape(planes, -1, count, dim).mean(dim=2)]
    if whole < frames.shape[1]:
        parts.append(frames[:, whole:].mean(dim=1, keepdim=True))
    return torch.cat(parts, dim=1)


def head_input(frames: Sequence[Tensor | None], spec: FeatureSpec, device: torch.device) -> HeadInput:
    """Pad the frames of B clips, ``(L, T_i, D)`` each or None, to what a head reads."""
    nothing = torch.zeros(0, len(spec.layers), spec.dim, device=device)
    rows = [nothing if clip is None else clip.transpose(0, 1).to(device) for clip in frames]  # (T_i, L, D)
    counts = [len(row) for row in rows]
    if not any(counts):
        rows[0] = nothing.new_zeros(1, len(spec.layers), spec.dim)
    padded = pad_sequence(rows, batch_first=True)  # (B, T, L, D)
    mask = torch.arange(padded.shape[1]) < torch.tensor(counts)[:, None]
    if device.type == "cuda":
        mask = mask.pin_memory()
    return HeadInput(
        padded if len(spec.layers) > 1 else padded.squeeze(2), mask.to(device, non_blocking=True)
    )


def _refuse_other_encoder(name: str, found: FeatureSpec, wanted: FeatureSpec) -> None:
    for field in ("encoder", "revision", "layers", "dim", "normalization"):
        here, there = getattr(found, field), getattr(wanted, field)
        if here != there:
            raise TrainingError(
                f"feature set '{name}' was made by an encoder with {field} {there}, this one has {here}: "
                "a head can only be fine-tuned with the encoder whose frames it was trained on"
            )
