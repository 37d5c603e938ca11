"""Store the trials of a search and suggest the next settings; the only file that uses Optuna."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from sercache.errors import RecipeError
from sercache.experiments.search_space import Dimension, Settings, Space
from sercache.files import write_atomically
from sercache.seeds import derive_seed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_STUDY_NAME = "sercache-tune"
_MIN_TRIALS_FOR_IMPORTANCES = 10


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a search that has ended.

    Attributes:
        number: from 0, in the order of the search.
        settings: what was tried, by dotted key.
        score: the primary score, out-of-fold on the inner folds; NaN where it failed.
        seconds: how long it took; of a trial that was interrupted, since it was taken up again.
        note: why it failed, else empty.
    """

    number: int
    settings: Settings
    score: float
    seconds: float
    note: str = ""

    @property
    def state(self) -> Literal["trained", "failed"]:
        """Whether the trial has a score."""
        return "failed" if self.note else "trained"


class Study:
    """The trials that have ended, in a file that only grows, one JSON line each.

    What is suggested next follows from these trials, the seed and the number of the trial alone: a search
    that was interrupted goes on as if it had not been. One process at a time may have a study open.

    Args:
        path: the file; made where it does not exist.
        space: what is searched.
        seed: of all suggestions.

    Raises:
        RecipeError: Optuna is not installed.
    """

    def __init__(self, path: Path, space: Space, seed: int) -> None:
        optuna = load_optuna()
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(path)
        # The lock of a killed process would block; the caller makes sure that no other process is here.
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        self._distributions = {key: _distribution(space[key]) for key in sorted(space)}
        self._seed = seed
        with quiet_optuna():
            backend = optuna.storages.journal.JournalFileBackend(str(path))
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name=_STUDY_NAME,
                direction="maximize",
                load_if_exists=True,
            )

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that have ended, in order."""
        return tuple(_read(trial) for trial in self._study.get_trials(deepcopy=False))

    def suggest(self) -> dict[str, int | float | str | bool]:
        """Return the settings to try next."""
        optuna = load_optuna()
        ended = self.trials
        least = min([0.0, *(trial.score for trial in ended if not math.isnan(trial.score))])
        # The sampler learns from a copy where a failed trial has the lowest score there is: given
        # a failure only, it would suggest such settings again.
        with quiet_optuna():
            sampler = optuna.samplers.TPESampler(seed=derive_seed(self._seed, "trial", len(ended)) % 2**32)
            copied = optuna.create_study(direction="maximize", sampler=sampler)
            for trial in ended:
                copied.add_trial(
                    optuna.trial.create_trial(
                        params=dict(trial.settings),
                        distributions=self._distributions,
                        value=least if math.isnan(trial.score) else trial.score,
                    )
                )
            return dict(copied.ask(self._distributions).params)

    def add(self, trial: Trial) -> None:
        """Append a trial that has ended; it is on disk whole, or not at all."""
        optuna = load_optuna()
        failed = trial.state == "failed"
        states = optuna.trial.TrialState
        with quiet_optuna():
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=states.FAIL if failed else states.COMPLETE,
                    params=dict(trial.settings),
                    distributions=self._distributions,
                    value=None if failed else trial.score,
                    user_attrs={"seconds": trial.seconds, "note": trial.note},
                )
            )

    def importances(self) -> dict[str, float]:
        """Return how much each key mattered for the score, largest first, summing to 1; few trials: nothing.

        PED-ANOVA (Watanabe et al. 2023).
        """
        optuna = load_optuna()
        scores = {trial.score for trial in self.trials if trial.state == "trained"}
        if len(scores) < _MIN_TRIALS_FOR_IMPORTANCES:
            return {}
        with quiet_optuna():
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))


def load_optuna() -> ModuleType:
    """Return the module optuna.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RecipeError(
            "the search needs Optuna, which is not installed: pip install 'sercache[tune]'"
        ) from None
    return optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from logging, and from warning that parts of it may change."""
    optuna = load_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.is_whole:
        step = int(dimension.step or 1)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _read(trial: "FrozenTrial") -> Trial:
    attributes: Mapping[str, float | str] = trial.user_attrs
    return Trial(
        number=trial.number,
        settings=dict(sorted(trial.params.items())),
        score=math.nan if trial.value is None else trial.value,
        seconds=float(attributes["seconds"]),
        note=str(attributes["note"]),
    )


def _cut_half_line(path: Path) -> None:
    """Remove what a killed process wrote of its last line: the next one would be glued to it."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            write_atomically(path, content[: content.rfind(b"\n") + 1])
