"""Fine-tuning on one fold, from the run folder back into it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch

from sercache.errors import TrainingError
from sercache.evaluation.primary import primary_in
from sercache.events import Context, Event
from sercache.heads.protocol import HeadOutput
from sercache.posteriors import Posteriors
from sercache.recipe import FinetuningRecipe, MemberRecipe
from sercache.run import DerivedMember, library_versions
from sercache.seeds import derive_seed
from sercache.training.batches import FrameSource
from sercache.training.checkpoint import EpochLog, load_head, save_head
from sercache.training.data import TrainingData
from sercache.training.finetuning.clips import Clips
from sercache.training.finetuning.live import LiveFeature
from sercache.training.finetuning.overlay import EncoderOverlay
from sercache.training.finetuning.processes import Processes
from sercache.training.finetuning.source import EncodedClips
from sercache.training.loop import Training
from sercache.training.member import (
    HISTORY_NAME,
    PREDICTIONS_NAME,
    STATE_NAME,
    WEIGHTS_NAME,
    FoldJob,
    FoldRows,
    fold_rows,
    is_finished,
    remove_leftovers,
)


def overlay_name(feature: str) -> str:
    """Return the name of the file, beside a fold's head, with a feature set's changed encoder weights."""
    return f"encoder-{feature}.safetensors"


@dataclass(frozen=True)
class FoldFinetuning:
    """What the folds of a fine-tuned member have in common.

    Attributes:
        data: the run.
        member: whose heads are started from.
        derived: what comes of it.
        live: the feature sets whose encoders are trained, by their index in the member.
        settings: of fine-tuning.
        processes: that work together.
        context: receives events, and says when to stop.
    """

    data: TrainingData
    member: MemberRecipe
    derived: DerivedMember
    live: dict[int, LiveFeature]
    settings: FinetuningRecipe
    processes: Processes
    context: Context

    def run(self, fold: int) -> None:
        """Fine-tune on one fold and publish it, the head's weights last; nothing is done if they are there.

        Raises:
            TrainingError: it cannot be trained on this fold.
            Interrupted: ``context.should_stop`` returned True; the next call goes on from there.
        """
        data, run = self.data, self.data.run
        job = FoldJob(run.root, self.derived.name, fold, str(self.processes.device))
        if self.processes.is_first:
            remove_leftovers(run, job)
        self.processes.wait()
        if is_finished(run, job):
            self.context.listener(Event("finish", job.name))
            return
        folder = run.fold_folder(self.derived.name, fold)
        head, description = load_head(run.fold_folder(self.member.name, fold) / WEIGHTS_NAME)
        for live in self.live.values():
            live.trained.reset()
        seed = derive_seed(data.recipe.seed, "finetune", self.member.name, self.member.seed, "fold", fold)
        rows = fold_rows(data, self.member, fold)
        targets = data.rows_of(self.member)
        clips = self._clips(rows)
        log = EpochLog(folder / HISTORY_NAME, run.tensorboard_folder(self.derived.name, fold))
        settings = data.recipe.training_of(self.member)
        source = EncodedClips(
            head, clips.select(rows.fit), clips.select(rows.stop), self.settings, settings, self.processes
        )
        training = Training(
            source,
            targets.select(rows.fit),
            targets.select(rows.stop),
            settings,
            seed=seed,
            stream_seed=derive_seed(data.recipe.seed, "stream"),
            state_path=folder / STATE_NAME,
            task=job.name,
            log=log if self.processes.is_first else lambda history: None,
            context=self.context,
        )
        self.context.listener(Event("start", job.name))
        try:
            best = training.run().best
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{job.name}: {self.processes.device} is out of memory: turn gradient_checkpointing on, or "
                "lower micro_batch_seconds or max_seconds"
            ) from error
        finally:
            log.close()
        predicted = [utterance_id for ids in rows.predicted.values() for utterance_id in ids]
        output = source.predict(clips.select(predicted), self.context.should_stop)
        if not (torch.isfinite(output.logits).all() and torch.isfinite(output.attributes).all()):
            raise TrainingError(
                f"{job.name}: it predicts what are no finite numbers; lower the learning rates"
            )
        if self.processes.is_first:
            self._posteriors(fold, rows, predicted, output).save(folder / PREDICTIONS_NAME)
            for live in self.live.values():
                overlay = EncoderOverlay.of(live.trained, live.name, live.spec.fingerprint, live.precision)
                overlay.save(folder / overlay_name(live.name))
            described = replace(description, member=self.derived.name, best=best, versions=library_versions())
            save_head(folder / WEIGHTS_NAME, head, described)
            (folder / STATE_NAME).unlink(missing_ok=True)
        self.processes.wait()
        self.context.listener(Event("finish", job.name, values={"best": best[primary_in(best).key]}))

    def _clips(self, rows: FoldRows) -> Clips:
        """Return all utterances of a fold; what comes from the cache stays there, and off the device."""
        ids = sorted({*rows.fit, *rows.stop, *chain.from_iterable(rows.predicted.values())})
        sets = self.data.sets_of(self.member)
        source = FrameSource(sets, ids, self.processes.device, resident=False)
        return Clips(source, self.live, self.settings.max_seconds, self.settings.micro_batch_seconds)

    def _posteriors(
        self, fold: int, rows: FoldRows, predicted: Sequence[str], output: HeadOutput
    ) -> Posteriors:
        corpus = self.data.corpus
        return Posteriors(
            member=self.derived.name,
            ids=tuple(predicted),
            classes=corpus.classes,
            attributes=corpus.attribute_names,
            class_probabilities=torch.softmax(output.logits.double(), dim=1).numpy(),
            attribute_values=output.attributes.double().numpy(),
            folds=np.full(len(predicted), fold),
            origins=np.asarray(
                [origin for origin, ids in rows.predicted.items() for _ in ids], dtype=np.str_
            ),
            fold_map_digest=self.data.folds.digest,
        )
