"""Self-supervised speech encoders of transformers: WavLM, HuBERT, wav2vec2 and their kin."""

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
from sercache.encoders.network import FrozenNetwork, batches_by_length
from sercache.encoders.protocol import Frames, Precision, Waveform
from sercache.errors import EncoderError

_EXACT_WHEN_MASKED = {"hubert", "unispeech-sat", "wav2vec2", "wav2vec2-bert", "wavlm"}
"""Model types whose frames, given the right mask, do not see the padding. data2vec-audio is not among them:
its stack of positional convolutions carries padding into the clip."""

_SECONDS_PER_BATCH = 120.0


class SpeechEncoder:
    """A transformers speech model that reads a waveform, or the filter banks that its checkpoint describes.

    The waveform is prepared clip by clip as the checkpoint's ``preprocessor_config.json`` says: zero mean and
    unit variance over the clip's own samples where ``do_normalize`` is set. Clips share a padded batch only
    where a mask keeps padding out exactly; group-norm fronts (wav2vec2-base, HuBERT-base, WavLM-base) and
    unknown models run clip by clip, unpadded. An adapter after the encoder (``add_adapter``) is left out.

    Attributes:
        batch_seconds: most audio in one batch, padding included.
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
        self._model = model
        self._extractor = checkpoint.load_feature_extractor()
        self._network = FrozenNetwork(checkpoint.name, model, selection, device, precision)
        self._can_be_padded = _is_exact_when_masked(checkpoint.config)
        self.batch_seconds = 0.0 if self._network.is_on_cpu else _SECONDS_PER_BATCH
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
        limit = self.batch_seconds * self._extractor.sampling_rate if self._can_be_padded else 0
        frames: dict[int, Frames] = {}
        with quiet_transformers():
            prepared = [self._prepare(waveform) for waveform in inputs]
            for batch in batches_by_length([len(waveform) for waveform in inputs], limit):
                encoded = self._encode_batch([prepared[index] for index in batch])
                frames.update(zip(batch, encoded, strict=True))
        return [frames[index] for index in range(len(prepared))]

    def _prepare(self, waveform: Waveform | str) -> Tensor:
        """Return the model's input for one clip, without padding: ``(S,)`` samples or ``(F, bins)``."""
        if isinstance(waveform, str):
            raise EncoderError(f"encoder '{self._network.name}' reads audio, not text")
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

    def _encode_batch(self, clips: list[Tensor]) -> list[Frames]:
        lengths = [len(clip) for clip in clips]
        inputs = {self._input_name: pad_sequence(clips, batch_first=True)}
        if min(lengths) < max(lengths):
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            inputs["attention_mask"] = mask.long()
        planes = self._network(inputs).cpu().numpy()
        counts = [min(self._frame_count(length), planes.shape[2]) for length in lengths]
        return [np.ascontiguousarray(planes[:, row, :count]) for row, count in enumerate(counts)]

    @property
    def _input_name(self) -> str:
        return str(self._model.main_input_name)

    def _frame_count(self, length: int) -> int:
        """Return how many frames belong to an input of ``length`` samples or filter-bank frames."""
        count_of = getattr(self._model, "_get_feat_extract_output_lengths", None)
        if count_of is None or self._input_name != "input_values":
            return length
        return int(count_of(torch.tensor(length)))

    def _frame_rate_hz(self, config: Any) -> float:
        """Return frames per second: what the strides say, or what four more seconds of audio bring."""
        rate_hz = self._extractor.sampling_rate
        if hasattr(config, "conv_stride"):
            return float(rate_hz / math.prod(config.conv_stride))
        noise = np.random.default_rng(0).standard_normal(6 * rate_hz).astype(np.float32) / 10
        short, long = (self._prepare(noise[: seconds * rate_hz]) for seconds in (2, 6))
        counts = [self._encode_batch([clip])[0].shape[1] for clip in (short, long)]
        return float(counts[1] - counts[0]) / 4

    def _too_short(self, samples: int) -> str:
        return f"encoder '{self._network.name}': a clip of {samples} samples is shorter than one frame"


def _is_exact_when_masked(config: Any) -> bool:
    return (
        config.model_type in _EXACT_WHEN_MASKED
        and getattr(config, "feat_extract_norm", "layer") == "layer"
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def _normalization(extractor: Any) -> str:
    if hasattr(extractor, "do_normalize"):
        return "zero mean, unit variance" if extractor.do_normalize else "none"
    return type(extractor).__name__
