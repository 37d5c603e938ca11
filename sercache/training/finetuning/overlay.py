"""The weights of an encoder that fine-tuning changed, kept apart from the encoder that they belong to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sercache.encoders.protocol import Encoder, Precision, TransformersEncoder
from sercache.encoders.wavlm_attention import GatedBiasAttention
from sercache.errors import EncoderError, TrainingError
from sercache.training.checkpoint import load_tensors, save_tensors
from sercache.training.finetuning.layers import TrainedLayers

_LORA_A, _LORA_B = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class OverlayDescription:
    """What an overlay belongs to.

    Attributes:
        feature: the recipe's name of the feature set.
        encoder: the encoder's name.
        revision: hub commit, or the digest of the local weights that were trained further.
        fingerprint: of the feature set whose frames the head was trained on before.
        layers: how many layers were trained.
        lora: rank of the updates; 0 where the layers' own weights were trained.
        scaling: what an update is multiplied with.
        precision: what the encoder computed in.
    """

    feature: str
    encoder: str
    revision: str
    fingerprint: str
    layers: int
    lora: int
    scaling: float
    precision: Precision


@dataclass(frozen=True)
class EncoderOverlay:
    """Changed weights, to be laid over an encoder that was loaded as usual.

    Example::

        encoder = load_encoder("microsoft/wavlm-large", "last4")
        with EncoderOverlay.load(path).applied_to(encoder):
            frames = encoder.encode(waveforms)

    Attributes:
        description: what it belongs to.
        tensors: new weights by their name in transformers' model; of LoRA the two factors of each update,
            ``<module>.lora_A`` ``(r, in)`` and ``<module>.lora_B`` ``(out, r)``.
    """

    description: OverlayDescription
    tensors: dict[str, Tensor]

    @classmethod
    def of(
        cls, trained: TrainedLayers, feature: str, fingerprint: str, precision: Precision
    ) -> "EncoderOverlay":
        """Take the trained weights out of an encoder."""
        spec = trained.encoder.spec
        described = OverlayDescription(
            feature=feature,
            encoder=spec.encoder,
            revision=spec.revision,
            fingerprint=fingerprint,
            layers=trained.count,
            lora=trained.lora,
            scaling=trained.scaling,
            precision=precision,
        )
        tensors = {
            key.removesuffix(".default.weight") if trained.lora else key: value.detach().cpu().clone()
            for key, value in trained.parameters().items()
        }
        return cls(described, tensors)

    def save(self, path: Path) -> None:
        """Write it as safetensors with a JSON description, atomically."""
        save_tensors(path, self.tensors, asdict(self.description))

    @classmethod
    def load(cls, path: Path) -> "EncoderOverlay":
        """Read what :meth:`save` wrote.

        Raises:
            TrainingError: the file is missing, damaged, or not an overlay.
        """
        tensors, described = load_tensors(path)
        try:
            return cls(OverlayDescription(**described), tensors)
        except TypeError as error:
            raise TrainingError(
                f"{path}: does not hold the weights of a fine-tuned encoder ({error})"
            ) from error

    @contextmanager
    def applied_to(self, encoder: Encoder) -> Iterator[None]:
        """Have the encoder compute with these weights; afterwards it is what it was, bit for bit.

        Args:
            encoder: loaded for inference or trainable, in any precision, on any device.

        Raises:
            EncoderError: these weights belong to another encoder, or to another revision of it.
        """
        made_by = self.description
        if (encoder.spec.encoder, encoder.spec.revision) != (made_by.encoder, made_by.revision):
            raise EncoderError(
                f"weights of '{made_by.encoder}' (revision {made_by.revision[:12]}) do not belong to encoder "
                f"'{encoder.spec.encoder}' (revision {encoder.spec.revision[:12]})"
            )
        if not isinstance(encoder, TransformersEncoder):
            raise EncoderError(f"encoder '{made_by.encoder}' has no weights that could be changed")
        changes = self._changes(encoder.model)
        before = [slot.detach().clone() for slot, _ in changes]
        try:
            with torch.no_grad():
                for slot, value in changes:
                    slot.copy_(value)
            yield
        finally:
            with torch.no_grad():
                for (slot, _), earlier in zip(changes, before, strict=True):
                    slot.copy_(earlier)

    @torch.no_grad()
    def _changes(self, model: Any) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors of a model that change, and what they become."""
        if not self.description.lora:
            slots = {key: self._slot(model, key) for key in self.tensors}
            return [(slot, convert(self.tensors[key])) for key, (slot, convert) in slots.items()]
        changes = []
        for key in self.tensors:
            if key.endswith(_LORA_A):
                module = key.removesuffix(_LORA_A)
                slot, _ = self._slot(model, f"{module}.weight")
                first, second = (
                    self.tensors[f"{module}{part}"].to(slot.device) for part in (_LORA_A, _LORA_B)
                )
                changes.append((slot, slot.float() + self.description.scaling * (second @ first)))
        return changes

    def _slot(self, model: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return where a weight lies in a model, and what is to be made of it to go there."""
        module, parts = model, name.split(".")
        try:
            for index, part in enumerate(parts):
                if isinstance(module, GatedBiasAttention):
                    return module.slot_of(".".join(parts[index:]))
                module = getattr(module, part)
        except (AttributeError, KeyError) as error:
            raise EncoderError(f"encoder '{self.description.encoder}' has no weight '{name}'") from error
        found: Tensor = module
        return found, torch.Tensor.detach
