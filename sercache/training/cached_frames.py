"""Training on cached frames: a head alone is trained, in one process; and predictions from cached frames."""

import math
from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sercache.cache.frames import from_storage
from sercache.heads.protocol import Head, HeadInput, HeadOutput
from sercache.recipe import TrainingRecipe
from sercache.seeds import derive_seed
from sercache.training.batches import FrameSource
from sercache.training.epoch import precision_of, rate_factor
from sercache.training.rows import LabelledRows
from sercache.training.source import MicroBatch, Step, StepReport


class CachedFrames:
    """Frames of one fold, and the head that is trained on them.

    A step of the optimiser takes ``accumulate`` batches. The state to resume from is that of a finished
    epoch. See :class:`~sercache.training.source.TrainingSource` for the attributes.

    Args:
        head: freshly initialised; holds the best epoch's weights afterwards.
        fit: frames to learn from.
        stop: frames that say when to stop.
        settings: of the member.
        start: ``(N, C + A)`` what a head with a base adds to on the rows to learn from: outputs of models
            that did not learn from the row's speaker. The base itself knows these rows too well.
    """

    state_prefix = "head."
    starts_trained = False
    has_long_epochs = False
    checkpoint_minutes = math.inf

    def __init__(
        self,
        head: Head,
        fit: FrameSource,
        stop: FrameSource,
        settings: TrainingRecipe,
        *,
        start: Tensor | None = None,
    ) -> None:
        self.device = fit.device
        self.head = head.to(self.device)
        self.fit, self.stop = fit, stop
        self.schedule: TrainingRecipe = settings
        self.precision: str = precision_of(settings, self.device)
        self.gradients = LocalGradients(list(head.parameters()))
        self.start = None if start is None else start.to(self.device)  # (N, C + A)

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        """Return the head's parameters at the stage's learning rate."""
        rate = (self.schedule.stage1 if stage == 1 else self.schedule.stage2).learning_rate
        return [{"params": list(self.head.parameters()), "lr": rate}]

    def rate_factor(self, stage: int, step: int, epoch_steps: int) -> float:
        """Return what the learning rate is multiplied by in a step of a stage."""
        epochs = (self.schedule.stage1 if stage == 1 else self.schedule.stage2).epochs
        warmup_steps = self.schedule.warmup_epochs * epoch_steps
        return rate_factor(step, warmup_steps, epochs * epoch_steps, self.schedule.schedule)

    def reported_rate(self, optimizer: torch.optim.Optimizer) -> float:
        """Return the learning rate of the last step."""
        rate: float = optimizer.param_groups[0]["lr"]
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Return the head's parameters and buffers."""
        return dict(self.head.state_dict())

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put the head's parameters and buffers back."""
        self.head.load_state_dict(tensors)

    def set_training(self) -> None:
        """Turn the head's dropout on."""
        self.head.train()

    def ranks(self, seed: int) -> NDArray[np.int64]:
        """Return each row's rank in a random order, ``(N,)``."""
        return self.fit.ranks(seed)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each row in all feature sets, ``(N,)``."""
        return self.fit.lengths

    @property
    def frame_counts(self) -> NDArray[np.int64]:
        """Frames of each row in each feature set, ``(N, M)``."""
        return self.fit.frame_counts

    def steps(
        self, batches: Sequence[NDArray[np.int64]], seed: int, generator: np.random.Generator
    ) -> list[Step]:
        """Return steps of ``accumulate`` batches; all draw from the epoch's generator."""
        micro_batches = [
            MicroBatch(rows, derive_seed(seed, "batch", number), generator)
            for number, rows in enumerate(batches)
        ]
        size = self.schedule.accumulate
        groups = [micro_batches[first : first + size] for first in range(0, len(micro_batches), size)]
        return [Step(group, sum(len(batch.rows) for batch in group)) for group in groups]

    def read(self, steps: Sequence[Step], seed: int, stream_seed: int) -> Generator[list[HeadInput]]:
        """Yield the frames of each micro-batch; a long clip is cut to a stretch of ``max_frames``."""
        batches = [batch.rows for batch in chain.from_iterable(step.micro_batches for step in steps)]
        yield from self.fit.batches(batches, self.schedule.max_frames, stream_seed)

    def inputs(self, micro_batch: MicroBatch, read: list[HeadInput]) -> list[HeadInput]:
        """Return the frames as they were read."""
        return read

    def start_outputs(self, rows: Tensor) -> Tensor | None:
        """Return what a head with a base adds to, ``(B, C + A)``."""
        return None if self.start is None else self.start[rows]

    def predict_stop_rows(self, should_stop: Callable[[], bool]) -> HeadOutput:
        """Return the head's outputs on all stop rows, on the CPU."""
        return predict(self.head, self.stop, self.schedule.batch_size)

    def why_not_finite(self, fit_rows: LabelledRows, stop_rows: LabelledRows) -> str:
        """Return why a loss is not finite, or else what may help."""
        reason = why_not_finite(self.fit, fit_rows) or why_not_finite(self.stop, stop_rows)
        return reason or "a lower learning_rate or another seed may help"


class LocalGradients:
    """The gradients of one process; losses are added up on the device and read once per epoch."""

    is_alone = True
    is_first = True

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self._loss: Tensor | None = None
        self._rows = 0

    def wait(self) -> None:
        """Do nothing: there is no other process."""

    def clear(self) -> None:
        """Begin a step without gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def add(self, loss: Tensor, rows: int, step_rows: int) -> None:
        """Add the gradients of a micro-batch's mean loss; it counts by its share of the step's rows."""
        (loss * (rows / step_rows)).backward()  # type: ignore[no-untyped-call]
        total = torch.zeros((), device=loss.device) if self._loss is None else self._loss
        self._loss = total + loss.detach() * rows
        self._rows += rows

    def finish_step(
        self, clip: float | None, step_rows: int, *, wants_stop: bool, wants_save: bool
    ) -> list[StepReport]:
        """Scale the gradients down to a norm of at most ``clip``; the losses stay on the device."""
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        return []

    def pending(self) -> list[StepReport]:
        """Return one report of all steps since the last call."""
        if self._loss is None:
            return []
        report = StepReport(self._loss.item(), self._rows)
        self._loss, self._rows = None, 0
        return [report]


@torch.no_grad()
def predict(head: Head, source: FrameSource, batch_size: int) -> HeadOutput:
    """Return logits ``(N, C)`` and attributes ``(N, A)`` of all utterances of ``source``, on the CPU."""
    head.eval()
    if not source.ids:
        num_attributes = len(head.get_buffer("attribute_low"))
        return HeadOutput(torch.empty(0, head.num_classes), torch.empty(0, num_attributes))
    order = np.argsort(source.lengths, kind="stable")
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    outputs = [head(inputs) for inputs in source.batches(batches)]  # (B, C) and (B, A) each
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return HeadOutput(
        torch.cat([output.logits for output in outputs]).float().cpu()[back],  # (N, C)
        torch.cat([output.attributes for output in outputs]).float().cpu()[back],  # (N, A)
    )


def why_not_finite(source: FrameSource, rows: LabelledRows) -> str:
    """Return which utterance has a frame or a target that is no finite number, or nothing."""
    infinite = np.isinf(rows.attributes).any(axis=1) | np.isinf(rows.soft).any(axis=1)
    if infinite.any():
        return f"utterance '{rows.ids[int(infinite.argmax())]}' has an infinite target"
    return frames_not_finite(source)


def frames_not_finite(source: FrameSource) -> str:
    """Return which utterance has a frame that is no finite number, or nothing."""
    for feature_set in source.feature_sets:
        dtype = feature_set.spec.dtype or "float32"
        locations = feature_set.locate(source.ids)
        for layer in feature_set.layers:
            for utterance_id, frames in zip(source.ids, feature_set.stream(locations, layer), strict=True):
                if not np.isfinite(from_storage(frames, dtype)).all():
                    return (
                        f"utterance '{utterance_id}' has frames in {feature_set.folder.name} that are not "
                        "finite numbers: extract it again, or take it out of the corpus"
                    )
    return ""
