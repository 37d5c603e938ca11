"""What the training loop asks of its source: inputs, the weights that are trained, and sums of gradients."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.heads.protocol import Head, HeadInput, HeadOutput
from sercache.recipe import FinetuningRecipe, TrainingRecipe
from sercache.training.rows import LabelledRows


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the network at once.

    Attributes:
        rows: ``(B,)`` among the rows to learn from.
        seed: of what torch draws for it, such as dropout.
        generator: draws its modality dropout and its MixUp.
    """

    rows: NDArray[np.int64]
    seed: int
    generator: np.random.Generator


@dataclass(frozen=True)
class Step:
    """One step of the optimiser.

    Attributes:
        micro_batches: those that this process computes.
        num_rows: rows of the step in all processes.
    """

    micro_batches: Sequence[MicroBatch]
    num_rows: int


class StepReport(NamedTuple):
    """What is known of one or more finished steps, over all processes.

    Attributes:
        loss: sum of their rows' losses.
        rows: how many rows those are.
        stops: whether a process wants to stop.
        saves: whether the state is to be saved.
    """

    loss: float
    rows: int
    stops: bool = False
    saves: bool = False


class GradientSum(Protocol):
    """Adds up the gradients and losses of a step, in one process or over several."""

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""

    def wait(self) -> None:
        """Wait until all processes are here."""

    def clear(self) -> None:
        """Begin a step without gradients."""

    def add(self, loss: Tensor, rows: int, step_rows: int) -> None:
        """Add the gradients of a micro-batch's mean loss; it counts by its share of the step's rows."""

    def finish_step(
        self, clip: float | None, step_rows: int, *, wants_stop: bool, wants_save: bool
    ) -> list[StepReport]:
        """Sum a step's gradients over the processes and scale them down to a norm of at most ``clip``.

        Returns:
            What has become known of finished steps; a step may be reported later, see :meth:`pending`.
        """

    def pending(self) -> list[StepReport]:
        """Return the reports of finished steps that were not returned yet."""


class TrainingSource(Protocol):
    """Where a training's inputs come from, and what its optimiser changes.

    Attributes:
        head: it holds the best epoch's weights after the training.
        device: where it is computed.
        precision: of products: ``float32`` or ``bfloat16``.
        state_prefix: of the trained tensors' names in the file to resume from.
        starts_trained: whether it starts from trained weights; they are then epoch 0 of the history.
        has_long_epochs: whether the state is saved, and steps are reported, within an epoch too.
        checkpoint_minutes: between two such states.
    """

    head: Head
    device: torch.device
    precision: str
    state_prefix: str
    starts_trained: bool
    has_long_epochs: bool
    checkpoint_minutes: float

    @property
    def schedule(self) -> TrainingRecipe | FinetuningRecipe:
        """Epochs of both stages, patience and batch size."""

    @property
    def gradients(self) -> GradientSum:
        """The gradients of all that is trained."""

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        """Return the parameters with the highest learning rate ``lr`` of each group in stage 1 or 2."""

    def rate_factor(self, stage: int, step: int, epoch_steps: int) -> float:
        """Return what learning rates are multiplied by in a step of a stage, counted from 0."""

    def reported_rate(self, optimizer: torch.optim.Optimizer) -> float:
        """Return the learning rate that the history has of an epoch."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, and the head's buffers, by name."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put :meth:`tensors` back."""

    def set_training(self) -> None:
        """Turn dropout on."""

    def ranks(self, seed: int) -> NDArray[np.int64]:
        """Return each row's rank in a random order, ``(N,)``."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """What batches are sorted by, ``(N,)``."""

    @property
    def frame_counts(self) -> NDArray[np.int64]:
        """Frames of each row in each feature set, ``(N, M)``."""

    def steps(
        self, batches: Sequence[NDArray[np.int64]], seed: int, generator: np.random.Generator
    ) -> list[Step]:
        """Return the steps of an epoch.

        Args:
            batches: the epoch's rows in batches of ``schedule.batch_size``.
            seed: of the epoch.
            generator: of the epoch.
        """

    def read(self, steps: Sequence[Step], seed: int, stream_seed: int) -> Generator[Any]:
        """Yield what is read of each micro-batch of some steps, ahead of its use.

        Args:
            steps: those left of an epoch.
            seed: of the epoch.
            stream_seed: of the epoch's order of rows.
        """

    def inputs(self, micro_batch: MicroBatch, read: Any) -> list[HeadInput]:
        """Return the head's inputs, one per feature set, from what was read; part of the forward pass."""

    def start_outputs(self, rows: Tensor) -> Tensor | None:
        """Return what the head's outputs are added to, ``(B, C + A)``; None: nothing."""

    def predict_stop_rows(self, should_stop: Callable[[], bool]) -> HeadOutput:
        """Return the outputs of all stop rows, on the CPU.

        Raises:
            Interrupted: ``should_stop`` returned True, and predicting takes long.
        """

    def why_not_finite(self, fit_rows: LabelledRows, stop_rows: LabelledRows) -> str:
        """Return why a loss is not finite, or else what may help."""
