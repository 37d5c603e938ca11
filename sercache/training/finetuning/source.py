"""Training on audio and text: a head and the top of its encoders are trained, on one or more processes."""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sercache.errors import Interrupted
from sercache.heads.protocol import Head, HeadInput, HeadOutput
from sercache.recipe import FinetuningRecipe, TrainingRecipe
from sercache.seeds import derive_seed
from sercache.training.cached_frames import why_not_finite
from sercache.training.checkpoint import with_prefix
from sercache.training.epoch import rate_factor
from sercache.training.finetuning.clips import Clips, Prepared
from sercache.training.finetuning.processes import Processes, SharedGradients
from sercache.training.rows import LabelledRows
from sercache.training.source import MicroBatch, Step


class EncodedClips:
    """Clips of one fold, and the head and encoders that are trained on them.

    A step of the optimiser takes one batch. It is cut into micro-batches by their length, which are split
    evenly over the processes; each has random numbers of its own. The state to resume from may be one within
    an epoch. See :class:`~sercache.training.source.TrainingSource` for the attributes.

    Args:
        head: with the weights that it starts from; holds the best epoch's afterwards, as the encoders do.
        fit: clips to learn from.
        stop: clips that say when to stop.
        settings: of fine-tuning.
        member: how the member was trained.
        processes: that work together.
    """

    state_prefix = "now."
    starts_trained = True
    has_long_epochs = True

    def __init__(
        self,
        head: Head,
        fit: Clips,
        stop: Clips,
        settings: FinetuningRecipe,
        member: TrainingRecipe,
        processes: Processes,
    ) -> None:
        self.device = processes.device
        self.head = head.to(self.device)
        self.fit, self.stop = fit, stop
        self.schedule: FinetuningRecipe = settings
        self.member = member
        self.processes = processes
        self.live = list(fit.live.values())
        self.precision: str = self.live[0].precision
        self.checkpoint_minutes = settings.checkpoint_minutes
        trained = [parameter for live in self.live for parameter in live.trained.parameters().values()]
        self.gradients = SharedGradients([*self.head.parameters(), *trained], processes)

    def parameter_groups(self, stage: int) -> list[dict[str, Any]]:
        """Return the head's parameters, then those of each trained layer, each with its learning rate."""
        encoder_rate, head_rate = self.schedule.learning_rates(stage)
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "lr": head_rate}]
        for live in self.live:
            groups += live.trained.groups(encoder_rate, self.schedule.layer_decay)
        return groups

    def rate_factor(self, stage: int, step: int, epoch_steps: int) -> float:
        """Return what learning rates are multiplied by in a step of a stage: they rise, then stay."""
        epochs = (self.schedule.stage1 if stage == 1 else self.schedule.stage2).epochs
        total_steps = epoch_steps * epochs
        return rate_factor(step, self.schedule.warmup_share * total_steps, total_steps)

    def reported_rate(self, optimizer: torch.optim.Optimizer) -> float:
        """Return the highest learning rate of the topmost trained layer in this stage."""
        rate: float = optimizer.param_groups[1]["peak"]
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, and the head's buffers, by name."""
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        for live in self.live:
            trained = live.trained.parameters().items()
            tensors |= {f"encoder.{live.name}.{name}": value.detach() for name, value in trained}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put :meth:`tensors` back."""
        self.head.load_state_dict(with_prefix(tensors, "head."))
        for live in self.live:
            live.trained.load(with_prefix(tensors, f"encoder.{live.name}."))

    def set_training(self) -> None:
        """Turn dropout on, in the head and in the trained layers."""
        self.head.train()
        for live in self.live:
            live.trained.train()

    def ranks(self, seed: int) -> NDArray[np.int64]:
        """Return each row's rank in a random order, ``(N,)``."""
        return self.fit.source.ranks(seed)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How much of a batch each row takes, ``(N,)``, in milliseconds."""
        return self.fit.lengths

    @property
    def frame_counts(self) -> NDArray[np.int64]:
        """Frames of each row in each feature set, as they were extracted, ``(N, M)``."""
        return self.fit.frame_counts

    def steps(
        self, batches: Sequence[NDArray[np.int64]], seed: int, generator: np.random.Generator
    ) -> list[Step]:
        """Return a step per batch, with this process's part of its micro-batches."""
        rank, count = self.processes.rank, self.processes.count
        steps = []
        for number, batch in enumerate(batches):
            parts = list(enumerate(self.fit.batches(batch)))[rank::count]
            seeds = [derive_seed(seed, "step", number, "micro-batch", part) for part, _ in parts]
            micro_batches = [
                MicroBatch(rows, part_seed, np.random.default_rng(part_seed))
                for (_, rows), part_seed in zip(parts, seeds, strict=True)
            ]
            steps.append(Step(micro_batches, len(batch)))
        return steps

    def read(self, steps: Sequence[Step], seed: int, stream_seed: int) -> Generator[Prepared]:
        """Yield the clips of each micro-batch as their encoders read them."""
        batches = [micro_batch.rows for step in steps for micro_batch in step.micro_batches]
        return self.fit.read_for_training(batches, seed)

    def inputs(self, micro_batch: MicroBatch, read: Prepared) -> list[HeadInput]:
        """Encode the clips of a micro-batch, with gradients into the trained layers."""
        return self.fit.training_inputs(micro_batch.rows, read, self.member.max_frames, micro_batch.seed)

    def start_outputs(self, rows: Tensor) -> Tensor | None:
        """Return None: a head with a base is not fine-tuned."""
        return None

    def predict_stop_rows(self, should_stop: Callable[[], bool]) -> HeadOutput:
        """Return the outputs of all stop rows, on the CPU."""
        return self.predict(self.stop, should_stop)

    @torch.no_grad()
    def predict(self, clips: Clips, should_stop: Callable[[], bool] = lambda: False) -> HeadOutput:
        """Return logits ``(N, C)`` and attributes ``(N, A)`` of whole utterances, on the CPU.

        Each process computes a part of them, and all return all of them.

        Raises:
            Interrupted: ``should_stop`` returned True, and this is the only process.
        """
        self.head.eval()
        for live in self.live:
            live.trained.train(False)
        batches = clips.batches(np.arange(len(clips.ids)), whole=True)
        batches = batches[self.processes.rank :: self.processes.count]
        num_classes = self.head.num_classes
        width = num_classes + len(self.head.get_buffer("attribute_low"))
        outputs = torch.zeros(len(clips.ids), width, device=self.device)  # (N, C + A)
        for rows, inputs in zip(batches, clips.whole_inputs(batches), strict=True):
            if self.processes.count == 1 and should_stop():
                raise Interrupted("stopped while predicting")
            outputs[torch.from_numpy(rows).to(self.device)] = torch.cat(self.head(inputs), dim=1).float()
        outputs = self.processes.add(outputs).cpu()
        return HeadOutput(outputs[:, :num_classes], outputs[:, num_classes:])  # (N, C) and (N, A)

    def why_not_finite(self, fit_rows: LabelledRows, stop_rows: LabelledRows) -> str:
        """Return why a loss is not finite, or else what may help."""
        cached = self.fit.cached_source
        reason = why_not_finite(cached, fit_rows) if cached is not None else ""
        return reason or "lower encoder_learning_rate and head_learning_rate, or use precision float32"
