"""Self-supervised speech encoders of transformers: WavLM, HuBERT, wav2vec2 and similar models."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.layers import LayerSelection
from sercache.encoders.checkpoint import Checkpoint, quiet_transformers, transformers_version
from sercache.encoders.inference import replace_front_group_norm
from sercache.encoders.network import EncoderNetwork, batches_by_length
from sercache.encoders.protocol import Frames, Pending, Precision, Waveform
from sercache.errors import EncoderError

_EXACT_WHEN_MASKED = {"hubert", "unispeech-sat", "wav2vec2", "wav2vec2-bert", "wavlm"}
"""Model types whose frames, given the right mask, do not see the padding. data2vec-audio is not among them:
its stack of positional convolutions carries padding into the clip."""

_SECONDS_PER_BATCH = 120.0


class SpeechEncoder:
    """A transformers speech model that reads a waveform, or the filter banks that its checkpoint describes.

    The waveform is prepared clip by clip as the checkpoint's ``preprocessor_config.json`` says: zero mean and
    unit variance over the clip's own samples where ``do_normalize`` is set. Clips share a padded batch only
    where masks keep padding out exactly, for group-norm fronts (wav2vec2-base, HuBERT-base, WavLM-base) with
    statistics of each clip alone; unknown models run clip by clip, unpadded. An adapter after the encoder
    (``add_adapter``) is left out.

    Attributes:
        batch_limit: most samples in one batch, padding included.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        selection: LayerSelection,
        device: str,
        precision: Precision,
    ) -> None:
        if getattr(model, "adapter", None) is not None:
            model.adapter = model.intermediate_ffn = None
            model.config.add_adapter = False
        self.model = model
        self.fixed_seconds: float | None = None
        self._extractor = checkpoint.load_feature_extractor()
        self.can_be_padded = _is_exact_when_masked(checkpoint.config)
        self._front_norm = replace_front_group_norm(model) if self.can_be_padded else None
        self.network = EncoderNetwork(checkpoint.name, model, selection, device, precision)
        seconds_per_batch = 0.0 if self.network.is_on_cpu else _SECONDS_PER_BATCH
        self.batch_limit = seconds_per_batch * self._extractor.sampling_rate
        self.spec = FeatureSpec(
            encoder=checkpoint.name,
            revision=checkpoint.revision,
            modality="audio",
            layers=selection.names,
            num_layers=selection.num_layers,
            dim=checkpoint.config.hidden_size,
            frame_rate_hz=self._frame_rate_hz(checkpoint.config),
            sample_rate_hz=self._extractor.sampling_rate,
            normalization=_normalization(self._extractor),
            library=transformers_version(),
            options={"last": "last_hidden_state", "precision": precision},
        )

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        """Encode waveforms of any lengths; returns one ``(L, T_i, D)`` array each, in order.

        Raises:
            EncoderError: a waveform is shorter than one frame.
        """
        with quiet_transformers():
            return self.begin([self.prepare(waveform) for waveform in inputs])()

    @property
    def parameter_count(self) -> int:
        """Return how many parameters the network has."""
        return self.network.parameter_count

    def batch_cost(self, inputs: Sequence[Waveform] | Sequence[str]) -> float:
        """Return the samples of these clips in one padded batch."""
        return float(len(inputs) * max(len(self.prepare(waveform)) for waveform in inputs))

    def prepare(self, waveform: Waveform | str) -> Tensor:
        """Return the model's input for one clip, without padding: ``(S,)`` samples or ``(F, bins)``."""
        if isinstance(waveform, str):
            raise EncoderError(f"encoder '{self.network.name}' reads audio, not text")
        try:
            features = self._extractor(
                waveform, sampling_rate=self._extractor.sampling_rate, return_tensors="np"
            )
        except (ValueError, IndexError) as error:
            raise EncoderError(self._too_short(len(waveform))) from error
        valid = features[self._input_name][0]
        if valid.ndim == 2:
            valid = valid[features["attention_mask"][0].astype(bool)]
        if self._frame_count(len(valid)) < 1:
            raise EncoderError(self._too_short(len(waveform)))
        return torch.from_numpy(np.ascontiguousarray(valid, dtype=np.float32))

    def begin(self, prepared: Sequence[Tensor]) -> Pending:
        """Begin to encode clips that :meth:`prepare` returned, in padded batches."""
        lengths = [len(clip) for clip in prepared]
        limit = self.batch_limit if self.can_be_padded else 0.0
        batches = batches_by_length(lengths, limit)
        fetches = [
            self.network.begin(self._prepare_batch([prepared[index] for index in batch])) for batch in batches
        ]

        def fetch() -> list[Frames]:
            frames: dict[int, Frames] = {}
            for batch, fetch_planes in zip(batches, fetches, strict=True):
                clips = [prepared[index] for index in batch]
                planes_of_clips = self._without_padding(fetch_planes(), clips)
                for index, planes in zip(batch, planes_of_clips, strict=True):
                    frames[index] = np.ascontiguousarray(planes.numpy())  # (L, T_i, D)
            return [frames[index] for index in range(len(lengths))]

        return fetch

    def frames(self, prepared: Sequence[Tensor]) -> list[Tensor]:
        """Return ``(L, T_i, D)`` of clips that :meth:`prepare` returned, with gradients, on the device."""
        batches = [list(prepared)] if self.can_be_padded else [[clip] for clip in prepared]
        return [
            planes
            for batch in batches
            for planes in self._without_padding(self.network.planes(self._prepare_batch(batch)), batch)
        ]

    def _without_padding(self, planes: Tensor, clips: Sequence[Tensor]) -> list[Tensor]:
        """Return the frames of every clip, of ``(L, B, T, D)`` planes."""
        counts = [min(self._frame_count(len(clip)), planes.shape[2]) for clip in clips]
        return [planes[:, row, :count] for row, count in enumerate(counts)]  # (L, T_i, D) each

    def _prepare_batch(self, clips: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the model's inputs of a padded batch, and set the clips' lengths in its group norm."""
        lengths = [len(clip) for clip in clips]
        is_padded = min(lengths) < max(lengths)
        inputs = {self._input_name: pad_sequence(list(clips), batch_first=True)}  # (B, S) or (B, F, bins)
        if is_padded:
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (B, S)
            inputs["attention_mask"] = mask.long()
        if self._front_norm is not None:
            self._front_norm.lengths = (
                [self._first_front_length(length) for length in lengths] if is_padded else None
            )
        return inputs

    def _first_front_length(self, samples: int) -> int:
        """Return how many positions a clip has behind the first convolution, where the group norm sits."""
        config = self.model.config
        return int((samples - config.conv_kernel[0]) // config.conv_stride[0] + 1)

    @property
    def _input_name(self) -> str:
        return str(self.model.main_input_name)

    def _frame_count(self, length: int) -> int:
        """Return how many frames belong to an input of ``length`` samples or filter-bank frames."""
        count_of = getattr(self.model, "_get_feat_extract_output_lengths", None)
        if count_of is None or self._input_name != "input_values":
            return length
        return int(count_of(torch.tensor(length)))

    def _frame_rate_hz(self, config: Any) -> float:
        """Return frames per second: from the strides, or from the frames of four more seconds."""
        rate_hz = self._extractor.sampling_rate
        if hasattr(config, "conv_stride"):
            return float(rate_hz / math.prod(config.conv_stride))
        noise = np.random.default_rng(0).standard_normal(6 * rate_hz).astype(np.float32) / 10
        counts = [frames.shape[1] for frames in self.encode([noise[: 2 * rate_hz], noise])]
        return float(counts[1] - counts[0]) / 4

    def _too_short(self, samples: int) -> str:
        return f"encoder '{self.network.name}': a clip of {samples} samples is shorter than one frame"


def _is_exact_when_masked(config: Any) -> bool:
    return config.model_type in _EXACT_WHEN_MASKED and not getattr(config, "conv_pos_batch_norm", False)


def _normalization(extractor: Any) -> str:
    if hasattr(extractor, "do_normalize"):
        return "zero mean, unit variance" if extractor.do_normalize else "none"
    return type(extractor).__name__
