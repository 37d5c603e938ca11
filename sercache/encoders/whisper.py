"""Whisper's encoder, trimmed to the true length of the clip."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.layers import LayerSelection
from sercache.encoders.checkpoint import Checkpoint, quiet_transformers, transformers_version
from sercache.encoders.network import EncoderNetwork, batches_by_length
from sercache.encoders.protocol import Frames, Pending, Precision, Waveform
from sercache.errors import EncoderError

_SECONDS_PER_BATCH = 480.0


class WhisperEncoder:
    """The encoder half of a Whisper model; the decoder is not kept.

    Whisper always reads 30 s: a clip is padded with silence before its log-mel frames are taken, as Whisper
    was trained. Of the 1,500 frames that come out, those of the clip are kept, one per 20 ms begun. All
    inputs have the same shape, so a clip's frames cannot depend on its batch mates.

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
        self._extractor = checkpoint.load_feature_extractor()
        self.model = model.get_encoder()
        self.fixed_seconds: float | None = float(self._extractor.chunk_length)
        self.network = EncoderNetwork(checkpoint.name, self.model, selection, device, precision)
        self._samples_per_frame = 2 * self._extractor.hop_length  # the second convolution has stride 2
        seconds_per_batch = 0.0 if self.network.is_on_cpu else _SECONDS_PER_BATCH
        self.batch_limit = seconds_per_batch * self._extractor.sampling_rate
        self.can_be_padded = True
        self.spec = FeatureSpec(
            encoder=checkpoint.name,
            revision=checkpoint.revision,
            modality="audio",
            layers=selection.names,
            num_layers=selection.num_layers,
            dim=checkpoint.config.d_model,
            frame_rate_hz=self._extractor.sampling_rate / self._samples_per_frame,
            sample_rate_hz=self._extractor.sampling_rate,
            normalization="whisper log-mel",
            library=transformers_version(),
            options={"last": "last_hidden_state", "precision": precision},
        )

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        """Encode waveforms of at most 30 s; returns one ``(L, ceil(S_i / 320), D)`` array each, in order.

        Raises:
            EncoderError: a waveform is empty or longer than Whisper's input.
        """
        with quiet_transformers():
            return self.begin([self.prepare(waveform) for waveform in inputs])()

    @property
    def parameter_count(self) -> int:
        """Return how many parameters the network has."""
        return self.network.parameter_count

    def batch_cost(self, inputs: Sequence[Waveform] | Sequence[str]) -> float:
        """Return the samples of these clips in one batch, each padded to 30 s."""
        return float(len(inputs) * self._extractor.n_samples)

    def prepare(self, waveform: Waveform | str) -> tuple[Tensor, int]:
        """Return ``(mel bands, 3000)`` log-mel frames of the clip and silence up to 30 s; and its samples."""
        if isinstance(waveform, str):
            raise EncoderError(f"encoder '{self.network.name}' reads audio, not text")
        if not 0 < len(waveform) <= self._extractor.n_samples:
            raise EncoderError(
                f"encoder '{self.network.name}' reads up to {self._extractor.chunk_length} s at once, not "
                f"{len(waveform) / self._extractor.sampling_rate:.2f} s; longer audio goes in windows"
            )
        features = self._extractor(waveform, sampling_rate=self._extractor.sampling_rate, return_tensors="pt")
        return features["input_features"][0].float(), len(waveform)

    def begin(self, prepared: Sequence[tuple[Tensor, int]]) -> Pending:
        """Begin to encode clips that :meth:`prepare` returned."""
        batches = batches_by_length([self._extractor.n_samples] * len(prepared), self.batch_limit)
        fetches = [
            self.network.begin(self._inputs([prepared[index] for index in batch])) for batch in batches
        ]

        def fetch() -> list[Frames]:
            frames: list[Frames] = []
            for batch, fetch_planes in zip(batches, fetches, strict=True):
                for planes in self._without_silence(fetch_planes(), [prepared[index] for index in batch]):
                    frames.append(np.ascontiguousarray(planes.numpy()))  # (L, T_i, D)
            return frames

        return fetch

    def frames(self, prepared: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
        """Return ``(L, T_i, D)`` of clips that :meth:`prepare` returned, with gradients, on the device."""
        return self._without_silence(self.network.planes(self._inputs(prepared)), prepared)

    def _inputs(self, clips: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
        return {"input_features": torch.stack([mel for mel, _ in clips])}  # (B, mel bands, 3000)

    def _without_silence(self, planes: Tensor, clips: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
        """Return the frames of every clip without those of its padding, of ``(L, B, 1500, D)`` planes."""
        counts = [-(-samples // self._samples_per_frame) for _, samples in clips]
        return [planes[:, row, :count] for row, count in enumerate(counts)]  # (L, T_i, D) each
