"""A frozen transformers encoder as an ONNX model that gives what a head reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sercache.bundle.onnx.graph import Trial, export_graph, verify_and_publish
from sercache.cache.fingerprint import FeatureSpec
from sercache.encoders.checkpoint import quiet_transformers
from sercache.encoders.network import EncoderNetwork
from sercache.encoders.protocol import Encoder
from sercache.encoders.registry import ENCODERS, load_encoder
from sercache.encoders.speech import SpeechEncoder
from sercache.encoders.text import TextEncoder
from sercache.encoders.whisper import WhisperEncoder
from sercache.errors import ExportError
from sercache.extract.encode import pool_over_time
from sercache.recipe import FeatureRecipe

TOLERANCE = 1e-3
_SECONDS = (1.3, 0.6, 2.21)
_WORDS = (5, 1, 9)
"""Lengths of the inputs on which a model is verified; the first is the exporter's example."""


Sizes = dict[str, dict[int, str]]
"""Names of sizes by axis, by input."""


class EncoderGraph(nn.Module):
    """An encoder for one input at a time, with the feature set's pooling over time.

    Args:
        network: the encoder's.
        inputs: names of what the model reads.
        time_pool: frames averaged into one.
        normalizes: whether a waveform gets zero mean and unit variance first.
        samples_per_frame: of an encoder that always gives frames for 30 s; None for one that does not.
        marks_words: whether the last input marks special tokens.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        inputs: tuple[str, ...],
        *,
        time_pool: int = 1,
        normalizes: bool = False,
        samples_per_frame: int | None = None,
        marks_words: bool = False,
    ) -> None:
        super().__init__()
        self.model = network.model
        self._network = network
        self._inputs = inputs
        self._time_pool = time_pool
        self._normalizes = normalizes
        self._samples_per_frame = samples_per_frame
        self._marks_words = marks_words

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames ``(1, T, D)`` or ``(1, T, L, D)`` and which of them count, ``(1, T)`` bool."""
        values = list(tensors)
        if self._normalizes:
            waveform = values[0]
            centred = waveform - waveform.mean(dim=1, keepdim=True)
            values[0] = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()
        named = dict(zip(self._inputs, values, strict=False))
        frames = self._network.planes(named).permute(1, 2, 0, 3)  # (1, T, L, D)
        mask = torch.ones_like(frames[:, :, 0, 0], dtype=torch.bool)
        if self._samples_per_frame is not None:
            count = (values[-1] + self._samples_per_frame - 1) // self._samples_per_frame
            mask = torch.arange(frames.shape[1]).unsqueeze(0) < count.unsqueeze(1)
        elif self._marks_words:
            mask = values[-1] == 0
        if self._time_pool > 1:
            frames, mask = _pooled(frames, mask, self._time_pool)
        return (frames.squeeze(2) if frames.shape[2] == 1 else frames), mask


def export_encoder(recipe: FeatureRecipe, spec: FeatureSpec, path: Path) -> float:
    """Write a feature set's encoder as an ONNX model for one input; return its largest difference to torch.

    Inputs, the first axis being 1: ``input_values`` ``(1, samples)``, a waveform at the encoder's rate (it
    is normalised inside); or the ``input_features`` that the checkpoint's feature extractor makes, for
    Whisper with ``samples`` ``(1,)``, the clip's length; or the tokenizer's ``input_ids`` and the like with
    ``special_tokens_mask``. Outputs: ``frames`` and ``mask``, pooled over time as the feature set is: what
    an exported head reads. Audio longer than the feature set's window is not for it.

    It computes in float32, and is compared with the library's own encoder on inputs of several lengths.

    Args:
        recipe: which encoder and layers.
        spec: of the feature set in the cache.
        path: of the file.

    Raises:
        EncoderError: the encoder cannot be loaded.
        ExportError: it is not the encoder of the feature set, is not one of transformers, cannot be exported,
            or the model does not agree with torch.
        OSError: the disk is full or the folder is not writable.
    """
    what = f"encoder '{spec.encoder}'"
    if recipe.encoder in ENCODERS:
        raise ExportError(f"{what} is embedded in sercache; only those of transformers can be exported")
    if spec.modality == "text" and spec.time_pool > 1:
        raise ExportError(f"{what} pools words over time; that cannot be exported")
    with quiet_transformers():
        encoder = load_encoder(recipe.encoder, recipe.layers, trust_remote_code=recipe.trust_remote_code)
        if (encoder.spec.revision, encoder.spec.layers) != (spec.revision, spec.layers):
            raise ExportError(
                f"{what} is revision {encoder.spec.revision[:12]} now; the features were made by "
                f"{spec.revision[:12]}"
            )
        graph, trials, dynamic = _prepared(encoder, spec, what)
        content = export_graph(
            graph.eval(),
            trials[0].inputs,
            dynamic,
            {"frames": {1: "time"}, "mask": {1: "time"}},
            {"kind": "encoder", "fingerprint": spec.fingerprint, "spec": spec.provenance()},
            what,
        )
    return verify_and_publish(content, trials, path, tolerance=TOLERANCE, what=what)


def _prepared(encoder: Encoder, spec: FeatureSpec, what: str) -> tuple[EncoderGraph, list[Trial], Sizes]:
    """Return what is exported, what it is tried on, and which of its inputs' sizes may differ."""
    if isinstance(encoder, TextEncoder):
        texts = [" ".join(["word"] * count) for count in _WORDS]
        pieces = [encoder.prepare(text)[0] for text in texts]
        marks = [{"special_tokens_mask": (~piece.is_word).long()} for piece in pieces]
        inputs = [_batch_of_one(piece.inputs | mark) for piece, mark in zip(pieces, marks, strict=True)]
        graph = EncoderGraph(encoder.network, tuple(pieces[0].inputs), marks_words=True)
        return graph, _trials(encoder, spec, inputs, texts), {name: {1: "tokens"} for name in inputs[0]}
    rate_hz = spec.sample_rate_hz or 0
    generator = np.random.default_rng(0)
    waveforms = [
        generator.normal(0, 0.1, round(seconds * rate_hz)).astype(np.float32) for seconds in _SECONDS
    ]
    if isinstance(encoder, WhisperEncoder):
        inputs = []
        for waveform in waveforms:
            features, samples = encoder.prepare(waveform)
            inputs.append({"input_features": features.unsqueeze(0), "samples": torch.tensor([samples])})
        hop = round(rate_hz / (spec.frame_rate_hz or 1))
        graph = EncoderGraph(
            encoder.network, ("input_features",), time_pool=spec.time_pool, samples_per_frame=hop
        )
        return graph, _trials(encoder, spec, inputs, waveforms), {}
    if not isinstance(encoder, SpeechEncoder):
        raise ExportError(f"{what}: a {type(encoder).__name__} cannot be exported")
    name = str(encoder.network.model.main_input_name)
    reads_waveform = name == "input_values"
    read = [
        torch.from_numpy(waveform) if reads_waveform else encoder.prepare(waveform) for waveform in waveforms
    ]
    inputs = [_batch_of_one({name: prepared}) for prepared in read]
    normalizes = reads_waveform and spec.normalization == "zero mean, unit variance"
    graph = EncoderGraph(encoder.network, (name,), time_pool=spec.time_pool, normalizes=normalizes)
    sizes = {name: {1: "samples" if reads_waveform else "filter_bank_frames"}}
    return graph, _trials(encoder, spec, inputs, waveforms), sizes


def _trials(
    encoder: Encoder, spec: FeatureSpec, inputs: Sequence[dict[str, Tensor]], contents: Sequence[Any]
) -> list[Trial]:
    trials = []
    for encoder_input, content in zip(inputs, contents, strict=True):
        planes = torch.from_numpy(pool_over_time(encoder.encode([content])[0], spec.time_pool))  # (L, T, D)
        expected = planes[0] if len(planes) == 1 else planes.transpose(0, 1)
        trials.append(Trial(encoder_input, {"frames": expected}, mask="mask"))
    return trials


def _batch_of_one(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}


def _pooled(frames: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return means of every ``count`` frames ``(1, T, L, D)`` that count, and which means do, ``(1, T)``."""
    planes, dim = frames.shape[2:]
    valid = mask.unsqueeze(1).to(frames.dtype)  # (1, 1, T)
    flat = frames.flatten(2).transpose(1, 2) * valid  # (1, L D, T)
    # Both are divided by the same number, whatever a runtime takes for the rest at the end.
    share = F.avg_pool1d(valid, count, ceil_mode=True, count_include_pad=False)
    sums = F.avg_pool1d(flat, count, ceil_mode=True, count_include_pad=False)
    means = sums / share.clamp_min(1e-6)
    return means.transpose(1, 2).reshape(1, -1, planes, dim), share[:, 0] > 0
