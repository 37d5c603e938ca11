"""Text encoders of transformers: RoBERTa, XLM-R, BERT, MiniLM, ModernBERT, DeBERTa and similar models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sercache.cache.fingerprint import FeatureSpec
from sercache.cache.layers import LayerSelection
from sercache.encoders.checkpoint import Checkpoint, quiet_transformers, transformers_version
from sercache.encoders.network import EncoderNetwork, batches_by_length
from sercache.encoders.protocol import Frames, Pending, Precision, Waveform
from sercache.encoders.windows import cross_fade
from sercache.errors import EncoderError

_TOKENS_PER_BATCH_CPU, _TOKENS_PER_BATCH = 512, 8192


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of one text's tokens that the model reads at once."""

    inputs: dict[str, Tensor]
    """``(T,)`` each."""
    is_word: Tensor
    """``(T,)`` bool, False for the special tokens that the tokenizer added."""


class TextEncoder:
    """A transformers text model; one frame per word piece, special tokens dropped.

    Special tokens are those that the tokenizer adds: the first and the last word of a transcript stay, and
    a one-word transcript has its frames. A text of more pieces than the model has positions is read in
    windows that share a quarter of their length, cross-faded where they meet: no text is cut off.

    Attributes:
        batch_limit: most tokens in one batch, padding included.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        selection: LayerSelection,
        device: str,
        precision: Precision,
    ) -> None:
        self._tokenizer = checkpoint.load_tokenizer()
        self.model = model
        self.fixed_seconds: float | None = None
        self.network = EncoderNetwork(checkpoint.name, model, selection, device, precision)
        self._longest = int(min(self._tokenizer.model_max_length, _positions(checkpoint.config, model)))
        self.batch_limit = float(_TOKENS_PER_BATCH_CPU if self.network.is_on_cpu else _TOKENS_PER_BATCH)
        self.can_be_padded = True
        self._tokenizer_lock = Lock()  # a tokenizer that truncates must not be called by two threads
        self.spec = FeatureSpec(
            encoder=checkpoint.name,
            revision=checkpoint.revision,
            modality="text",
            layers=selection.names,
            num_layers=selection.num_layers,
            dim=checkpoint.config.hidden_size,
            frame_rate_hz=None,
            sample_rate_hz=None,
            normalization="stripped",
            library=transformers_version(),
            options={"last": "last_hidden_state", "longest": self._longest, "precision": precision},
        )

    def encode(self, inputs: Sequence[Waveform] | Sequence[str]) -> list[Frames]:
        """Encode texts of any lengths; returns one ``(L, T_i, D)`` array each, in order.

        Raises:
            EncoderError: a text is empty, or the tokenizer makes nothing of it.
        """
        with quiet_transformers():
            return self.begin([self.prepare(text) for text in inputs])()

    @property
    def parameter_count(self) -> int:
        """Return how many parameters the network has."""
        return self.network.parameter_count

    def batch_cost(self, inputs: Sequence[Waveform] | Sequence[str]) -> float:
        """Return the tokens of these texts in one padded batch."""
        pieces = [len(piece.is_word) for text in inputs for piece in self.prepare(text)]
        return float(len(pieces) * max(pieces))

    def prepare(self, text: Waveform | str) -> list[_Piece]:
        """Return a text's tokens in pieces that fit into the model."""
        if not isinstance(text, str):
            raise EncoderError(f"encoder '{self.network.name}' reads text, not audio")
        with self._tokenizer_lock:
            encoding = self._tokenizer(
                [text.strip()],
                return_special_tokens_mask=True,
                return_overflowing_tokens=True,
                truncation=True,
                max_length=self._longest,
                stride=self._overlap,
            )
        return list(self._pieces(encoding))

    def begin(self, prepared: Sequence[list[_Piece]]) -> Pending:
        """Begin to encode texts that :meth:`prepare` returned, in padded batches."""
        pieces = [piece for text in prepared for piece in text]
        batches = batches_by_length([len(piece.is_word) for piece in pieces], self.batch_limit)
        fetches = [self.network.begin(self._inputs([pieces[index] for index in batch])) for batch in batches]

        def fetch() -> list[Frames]:
            encoded: dict[int, Frames] = {}
            for batch, fetch_planes in zip(batches, fetches, strict=True):
                words_of_pieces = self._words(fetch_planes(), [pieces[index] for index in batch])
                encoded |= {index: words.numpy() for index, words in zip(batch, words_of_pieces, strict=True)}
            in_order = (encoded[index] for index in range(len(pieces)))
            return [self._join(list(islice(in_order, len(text)))) for text in prepared]

        return fetch

    def frames(self, prepared: Sequence[list[_Piece]]) -> list[Tensor]:
        """Return ``(L, T_i, D)`` of texts of one piece each, with gradients, on the device."""
        pieces = [piece for [piece] in prepared]
        return self._words(self.network.planes(self._inputs(pieces)), pieces)

    def _words(self, planes: Tensor, pieces: Sequence[_Piece]) -> list[Tensor]:
        """Return the frames of the words of every piece, of ``(L, B, T, D)`` planes."""
        # Indices, not masks: their number is then known without waiting for a GPU.
        indices = [piece.is_word.nonzero().squeeze(1) for piece in pieces]  # (W_i,) each
        return [
            planes[:, row].index_select(1, kept.to(planes.device))  # (L, W_i, D)
            for row, kept in enumerate(indices)
        ]

    def _pieces(self, encoding: Any) -> Iterator[_Piece]:
        names = [name for name in self._tokenizer.model_input_names if name in encoding]
        for window, special in enumerate(encoding["special_tokens_mask"]):
            is_word = ~torch.tensor(special, dtype=torch.bool)
            if not is_word.any():
                raise EncoderError(f"encoder '{self.network.name}': the text has no token to encode")
            yield _Piece({name: torch.tensor(encoding[name][window]) for name in names}, is_word)

    def _inputs(self, pieces: Sequence[_Piece]) -> dict[str, Tensor]:
        """Return the model's inputs of a padded batch, ``(B, T)`` each."""
        padding = {"input_ids": self._tokenizer.pad_token_id or 0}
        return {
            name: pad_sequence([piece.inputs[name] for piece in pieces], True, padding.get(name, 0))
            for name in pieces[0].inputs
        }

    def _join(self, windows: list[Frames]) -> Frames:
        if len(windows) == 1:
            return windows[0]
        step = windows[0].shape[1] - self._overlap
        return cross_fade(windows, [step * index for index in range(len(windows))])

    @property
    def _overlap(self) -> int:
        return self._longest // 4


def _positions(config: Any, model: Any) -> int:
    """Return how many tokens the model has positions for.

    Models like RoBERTa count positions from ``padding_idx + 1``: 514 positions are room for 512 tokens.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - int(first)
    return int(getattr(config, "max_position_embeddings", None) or 512)
