"""What training writes: resume state and finished weights as safetensors, and the history as CSV."""

import csv
import importlib.util
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sercache.errors import TrainingError
from sercache.files import write_atomically
from sercache.heads.protocol import Head
from sercache.heads.registry import build_head

FORMAT_VERSION = 1

History = list[dict[str, float]]
"""One row per finished epoch: epoch, stage, learning_rate, train_loss, stop_loss, macro_f1, uar, seconds.

``learning_rate`` is that of the epoch's last step; of fine-tuning the highest that a trained layer reaches in
the stage. With attributes alone ``mean_ccc`` stands where macro_f1 and uar do.
"""

_NOT_DRAWN = ("epoch", "stage")


@dataclass(frozen=True)
class HeadDescription:
    """Everything that rebuilds a trained head, and says what its inputs and outputs mean.

    Attributes:
        member: the member's name.
        fold: which fold it was *not* trained on.
        head: name in the registry.
        options: the head's options.
        input_dims: D of each feature set.
        input_layers: how many layers of it, L, the head sums.
        features: fingerprint of each feature set, by the recipe's name for it, in the order of the inputs.
        classes: names of the logits.
        attributes: ``(name, low, high)`` of each attribute output.
        best: what the kept epoch scored on the rows that stopped training.
        versions: of the libraries.
        normalize: ``speaker`` where its frames are standardised per speaker before the head reads them
            (:mod:`sercache.training.standardize`), else ``none``.
    """

    member: str
    fold: int
    head: str
    options: dict[str, Any]
    input_dims: list[int]
    input_layers: list[int]
    features: dict[str, str]
    classes: list[str]
    attributes: list[tuple[str, float, float]]
    best: dict[str, float]
    versions: dict[str, str]
    normalize: str = "none"


@dataclass
class Progress:
    """Where training is.

    Attributes:
        stage: 1 or 2.
        stage_epochs: epochs finished in this stage.
        stale_epochs: epochs since the best one of this stage, or since the stage began.
        best: scores of the best epoch so far, empty before the first.
        history: one row per finished epoch.
        steps: steps of the optimiser finished in the epoch under way.
        loss: sum over their rows of the losses.
        rows: how many rows those are.
        seconds: that the epoch under way has taken.
    """

    stage: int = 1
    stage_epochs: int = 0
    stale_epochs: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=list)
    steps: int = 0
    loss: float = 0.0
    rows: int = 0
    seconds: float = 0.0


WITHIN_EPOCH = ("steps", "loss", "rows", "seconds")
"""Values of a progress that only a state saved within an epoch needs."""


def save_tensors(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write tensors and a JSON description as one safetensors file, atomically."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    stated = {"format_version": FORMAT_VERSION, **description}
    write_atomically(path, save(content, metadata={"sercache": json.dumps(stated)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        TrainingError: the file is missing, damaged, or of another format version.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            description = json.loads((stream.metadata() or {})["sercache"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: not a checkpoint of sercache, or damaged ({error})") from error
    version = description.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise TrainingError(f"{path}: has format {version}; this version reads format {FORMAT_VERSION}")
    return tensors, description


def save_head(path: Path, head: Head, description: HeadDescription) -> None:
    """Write the finished weights of a head with everything that rebuilds it."""
    save_tensors(path, dict(head.state_dict()), asdict(description))


def load_head(path: Path) -> tuple[Head, HeadDescription]:
    """Rebuild a trained head from its weights file alone, ready for evaluation.

    Raises:
        TrainingError: the file is damaged or its weights do not fit its description.
    """
    tensors, stated = load_tensors(path)
    try:
        attributes = [(name, low, high) for name, low, high in stated.pop("attributes")]
        description = HeadDescription(attributes=attributes, **stated)
        if description.normalize not in ("none", "speaker"):
            raise ValueError(f"unknown normalisation '{description.normalize}'; a newer sercache reads it")
        ranges = [(low, high) for _, low, high in attributes]
        head = build_head(
            description.head,
            description.input_dims,
            len(description.classes),
            ranges,
            description.options,
            0,
            description.input_layers,
        )
        head.load_state_dict(tensors)
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path}: the weights do not fit their description ({reason})") from error
    return head.eval(), description


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors, ``<prefix><parameter>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{index}.{name}": value for index, row in state.items() for name, value in row.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, _, name = key.removeprefix(prefix).partition(".")
            state.setdefault(int(index), {})[name] = value
    described = optimizer.state_dict()
    optimizer.load_state_dict({**described, "state": state})


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins with ``prefix``, by the rest of it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class EpochLog:
    """Writes a training's history after every epoch.

    Args:
        history_path: the CSV, one row per epoch; always written, whole.
        tensorboard_folder: where event files go, if TensorBoard is installed (``sercache[tensorboard]``).
    """

    def __init__(self, history_path: Path, tensorboard_folder: Path) -> None:
        self.history_path = history_path
        self.tensorboard_folder = tensorboard_folder
        self._writer: Any = None

    def __call__(self, history: History) -> None:
        """Write the history; its last row is the epoch that has just ended."""
        write_atomically(self.history_path, _as_csv(history))
        if not history or importlib.util.find_spec("tensorboard") is None:
            return
        row = history[-1]
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an interrupted run wrote of this epoch and later ones counts no longer.
            self._writer = SummaryWriter(str(self.tensorboard_folder), purge_step=int(row["epoch"]))
        for name, value in row.items():
            if name not in _NOT_DRAWN:
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """End the event file."""
        if self._writer is not None:
            self._writer.close()


def _as_csv(history: History) -> str:
    if not history:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
