"""What people follow a training by: ``history.csv``, and TensorBoard's event files where it is installed."""

import csv
import importlib.util
import io
from pathlib import Path
from typing import Any

from sercache.files import write_atomically

History = list[dict[str, float]]
"""One row per finished epoch: epoch, stage, learning_rate, train_loss, stop_loss, macro_f1, uar, seconds.

``learning_rate`` is that of the epoch's last step. With attributes alone ``mean_ccc`` stands where macro_f1
and uar do.
"""

_NOT_DRAWN = ("epoch", "stage")


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
