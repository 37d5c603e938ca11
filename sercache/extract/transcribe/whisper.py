"""Transcribe batches of clips with Whisper: greedy decoding, with probabilities; long clips in pieces."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sercache.audio import Waveform
from sercache.encoders.checkpoint import Checkpoint, open_checkpoint, quiet_transformers
from sercache.encoders.inference import prepare_for_inference
from sercache.encoders.protocol import Precision
from sercache.errors import EncoderError, did_you_mean

_FRAME_SECONDS = 0.1
_SEARCHED_SHARE = 1 / 3
"""How much of a piece, at its end, is searched for a quiet place."""


def quiet_pieces(waveform: Waveform, sample_rate_hz: int, longest_seconds: float) -> list[Waveform]:
    """Cut a waveform into pieces of at most ``longest_seconds``, at the quietest places near their ends.

    Args:
        waveform: ``(S,)`` samples.
        sample_rate_hz: how many of them make a second.
        longest_seconds: longest piece.

    Returns:
        Pieces, views of the waveform, which they cover one after the other.
    """
    longest = int(longest_seconds * sample_rate_hz)
    frame = max(1, int(_FRAME_SECONDS * sample_rate_hz))
    pieces: list[Waveform] = []
    while len(waveform) > longest:
        searched = waveform[int(longest * (1 - _SEARCHED_SHARE)) : longest]
        frames = searched[: len(searched) // frame * frame].reshape(-1, frame)
        quietest = int(np.square(frames).mean(axis=1).argmin()) if len(frames) else 0
        cut = longest - len(searched) + quietest * frame + frame // 2
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform]


@dataclass(frozen=True, slots=True)
class PieceTranscript:
    """The transcript of one piece of audio.

    Attributes:
        text: the words.
        language: code of its language; empty for an English-only model.
        no_speech: probability that nobody speaks.
        log_probability: of all tokens, the end included, summed.
        tokens: how many that are.
    """

    text: str
    language: str
    no_speech: float
    log_probability: float
    tokens: int


class WhisperTranscriber:
    """A Whisper model that writes down what is said in pieces of at most 30 s.

    Greedy and without timestamps. Every piece is padded to 30 s, so the text of a clip cannot depend on its
    batch mates. The probability of no speech is that of its token right after the start of the transcript
    (Radford et al. 2023, section 4.5).

    Args:
        name: hub name or folder of a Whisper checkpoint.
        language: code of the language (``en``); None to detect it, clip by clip.
        device: where to compute, as torch names it.
        precision: ``bfloat16`` runs it under autocast.

    Attributes:
        name: what the manifest's column calls the model.
        revision: hub commit, or digest of the local files.
        precision: how it computes.
        sample_rate_hz: what audio must be resampled to.
        longest_seconds: longest piece.

    Raises:
        EncoderError: it cannot be loaded, is no Whisper model, or does not know the language.
    """

    def __init__(
        self, name: str, *, language: str | None = None, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        checkpoint = open_checkpoint(name)
        if checkpoint.model_type != "whisper":
            raise EncoderError(f"'{name}' is a {checkpoint.model_type} model, transcripts need Whisper")
        self.name, self.revision = checkpoint.name, checkpoint.revision
        self._extractor = checkpoint.load_feature_extractor()
        self._vocabulary = _Vocabulary(checkpoint)
        self._language = self._vocabulary.require_language(language)
        self._device, self.precision = device, precision
        model = checkpoint.load_speech_to_text()
        self._longest_text = int(model.config.max_target_positions) // 2
        suppressed = self._vocabulary.suppressed(model.generation_config)
        self._never = self._banned(suppressed, model.config.vocab_size)
        self._not_first = self._banned([*suppressed, *self._vocabulary.not_first], model.config.vocab_size)
        prepare_for_inference(model, precision)
        self._model: Any = model.to(device)
        self.sample_rate_hz: int = self._extractor.sampling_rate
        self.longest_seconds: float = float(self._extractor.chunk_length)

    @torch.inference_mode()
    def transcribe(self, pieces: Sequence[Waveform]) -> list[PieceTranscript]:
        """Transcribe a batch of pieces, each at most 30 s; the results come in order."""
        autocast = torch.autocast(torch.device(self._device).type, torch.bfloat16)
        with quiet_transformers():
            features = self._extractor(
                list(pieces), sampling_rate=self.sample_rate_hz, return_tensors="pt"
            ).input_features
        # the spectrogram is computed on the CPU, which autocast for a CPU would lower as well
        with quiet_transformers(), autocast if self.precision == "bfloat16" else nullcontext():
            encoded = self._model.get_encoder()(features.to(self._device)).last_hidden_state  # (B, T, D)
            return self._decode(encoded)

    def _decode(self, encoded: Tensor) -> list[PieceTranscript]:
        """Write one text per row of ``(B, T, D)`` encoder frames."""
        words, count = self._vocabulary, len(encoded)  # B
        start = torch.full((count, 1), words.start, device=encoded.device)  # (B, 1)
        first = self._logits(encoded, start)[:, -1].softmax(-1)  # (B, V)
        no_speech = first[:, words.no_speech] if words.no_speech is not None else torch.zeros(count)
        languages = self._languages(first)
        tokens = torch.cat([start, self._prompt(languages).to(encoded.device)], dim=1)  # (B, prompt)
        prompt_length = tokens.shape[1]
        cache: Any = None
        is_done = torch.zeros(count, dtype=torch.bool, device=encoded.device)
        log_probability = torch.zeros(count, device=encoded.device)
        lengths = torch.zeros(count, dtype=torch.long, device=encoded.device)
        step = tokens
        while not is_done.all() and tokens.shape[1] < prompt_length + self._longest_text:
            output = self._model(
                encoder_outputs=(encoded,), decoder_input_ids=step, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            logits = output.logits[:, -1].float()  # (B, V)
            is_first = tokens.shape[1] == prompt_length
            logits = logits + (self._not_first if is_first else self._never)
            best, token = logits.log_softmax(-1).max(-1)  # (B,)
            log_probability += torch.where(is_done, 0.0, best)
            lengths += ~is_done
            token = torch.where(is_done, words.end, token)
            is_done |= token == words.end
            tokens = torch.cat([tokens, token[:, None]], dim=1)  # (B, steps + 1)
            step = token[:, None]
        written = words.texts(tokens[:, prompt_length:].cpu())
        rows = zip(
            written, languages, no_speech.tolist(), log_probability.tolist(), lengths.tolist(), strict=True
        )
        return [PieceTranscript(text, words.code(language), *numbers) for text, language, *numbers in rows]

    def _banned(self, tokens: Sequence[int], vocabulary_size: int) -> Tensor:
        """Return ``(V,)`` float32 on the device, to be added to logits: minus infinity for these tokens."""
        penalty = torch.zeros(vocabulary_size)
        penalty[[token for token in tokens if token < vocabulary_size]] = float("-inf")
        return penalty.to(self._device)

    def _logits(self, encoded: Tensor, tokens: Tensor) -> Tensor:
        output = self._model(encoder_outputs=(encoded,), decoder_input_ids=tokens)
        return output.logits.float()  # type: ignore[no-any-return]

    def _languages(self, first: Tensor) -> list[int | None]:
        """Return the token of each row's language: the one asked for, or the most probable."""
        known = list(self._vocabulary.languages.values())
        if self._language is not None or not known:
            return [self._language] * len(first)
        return [known[index] for index in first[:, known].argmax(-1).tolist()]

    def _prompt(self, languages: Sequence[int | None]) -> Tensor:
        rows = []
        for language in languages:
            task = [] if language is None else [language, self._vocabulary.transcribe]
            rows.append([*task, self._vocabulary.no_timestamps])
        return torch.tensor(rows)


class _Vocabulary:
    """The special tokens of a Whisper tokenizer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._name = checkpoint.name
        self._tokenizer = checkpoint.load_tokenizer()
        self.start = self._require("<|startoftranscript|>")
        self.end = self._require("<|endoftext|>")
        self.no_timestamps = self._require("<|notimestamps|>")
        self.no_speech = self._find("<|nospeech|>", "<|nocaptions|>")
        self.transcribe = self._find("<|transcribe|>")
        self.languages = self._find_languages() if self._is_multilingual(checkpoint) else {}
        space = self._tokenizer.encode(" ", add_special_tokens=False)
        self.not_first = [self.end, *space[:1]]

    def require_language(self, code: str | None) -> int | None:
        """Return the token of a language; None if it is to be detected, or the model knows English only."""
        if code is None:
            return None
        if not self.languages:
            if code == "en":
                return None
            raise EncoderError(f"'{self._name}' knows English only; it cannot transcribe '{code}'")
        if code not in self.languages:
            raise EncoderError(
                f"'{self._name}' does not know the language '{code}'; write its code, such as en, de or zh."
                f"{did_you_mean(code, self.languages)}"
            )
        return self.languages[code]

    def code(self, token: int | None) -> str:
        """Return the code of a language by its token."""
        return next((code for code, known in self.languages.items() if known == token), "")

    def suppressed(self, generation_config: Any) -> list[int]:
        """Return the tokens that no transcript holds: those the checkpoint names, and all special ones."""
        named = getattr(generation_config, "suppress_tokens", None) or []
        special = [*self.languages.values(), self.start, self.no_timestamps]
        special += [token for token in (self.transcribe, self.no_speech) if token is not None]
        # timestamps, where there are any, come after the token that says that there are none
        timestamps = range(self.no_timestamps + 1, len(self._tokenizer))
        return sorted({*map(int, named), *special, *timestamps} - {self.end})

    def texts(self, tokens: Tensor) -> list[str]:
        """Return the texts of ``(B, T)`` tokens."""
        written: list[str] = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in written]

    def _is_multilingual(self, checkpoint: Checkpoint) -> bool:
        from transformers import GenerationConfig

        try:
            pinned: dict[str, Any] = {} if checkpoint.is_local else {"revision": checkpoint.revision}
            stated = GenerationConfig.from_pretrained(checkpoint.source, **pinned)
        except OSError:
            stated = None
        return bool(getattr(stated, "is_multilingual", checkpoint.config.vocab_size >= 51865))

    def _find_languages(self) -> dict[str, int]:
        from transformers.models.whisper.tokenization_whisper import LANGUAGES

        found = {code: self._find(f"<|{code}|>") for code in LANGUAGES}
        return {code: token for code, token in found.items() if token is not None}

    def _find(self, *names: str) -> int | None:
        vocabulary = self._tokenizer.get_vocab()
        return next((int(vocabulary[name]) for name in names if name in vocabulary), None)

    def _require(self, name: str) -> int:
        token = self._find(name)
        if token is None:
            raise EncoderError(f"'{self._name}': its tokenizer lacks {name}: not a Whisper tokenizer")
        return token
