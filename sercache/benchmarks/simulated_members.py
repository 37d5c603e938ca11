"""Members whose best combination is known: what stackers should learn, and how well it does."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.targets import TargetPolicy, consensus, soft_targets
from sercache.evaluation.probabilities import softmax
from sercache.stacking.rows import Floats, StackingInputs, StackingRows

ROWS_PER_SPEAKER = 40


@dataclass(frozen=True)
class SimulatedMembers:
    """M members that see the same Gaussian evidence of C equally frequent classes, each through its faults.

    Of a row of class y, member m has the evidence ``signal[m] * one_hot(y) + bias[m] + noise`` over classes,
    with noise that members share in part, and that rows of a speaker share in part. It says
    ``softmax(sharpness[m] * evidence)``.

    Noise is alike for all classes, so that the log-likelihood ratio of two classes is linear in evidence: the
    Bayes rule is a softmax of ``signal @ inverse(covariance) @ (evidence - bias)``, which a logistic
    regression on log-probabilities can learn.

    Attributes:
        signal: ``(M,)``, how well each sees.
        bias: ``(M, C)``, what each adds to its evidence.
        sharpness: ``(M,)``, how sure each is of it.
        shared_noise: variance of the noise that all members have in common.
        own_noise: ``(M,)``, variance of each member's own.
        speaker_noise: variance of the noise that rows of a speaker share, for all members.
        raters: votes of each row.
        agreement: how often a rater names the class itself; otherwise any.
        attributes: how many attributes are rated too.
    """

    signal: Floats
    bias: Floats
    sharpness: Floats
    shared_noise: float
    own_noise: Floats
    speaker_noise: float = 0.1
    raters: int = 7
    agreement: float = 0.8
    attributes: int = 0

    @classmethod
    def faulty(cls, members: int, classes: int, *, attributes: int = 0, seed: int = 0) -> "SimulatedMembers":
        """Return members that see unequally well, are biased, and over- or underconfident."""
        generator = np.random.default_rng(seed)
        return cls(
            signal=np.linspace(1.6, 0.6, members),
            bias=0.9 * generator.normal(size=(members, classes)),
            sharpness=np.exp(generator.uniform(-0.7, 0.9, members)),
            shared_noise=0.3,
            own_noise=generator.uniform(0.6, 1.4, members),
            attributes=attributes,
        )

    @classmethod
    def alike(cls, members: int, classes: int) -> "SimulatedMembers":
        """Return members that differ by their own noise only: no choice among them is better than another."""
        return cls(
            signal=np.full(members, 1.0),
            bias=np.zeros((members, classes)),
            sharpness=np.ones(members),
            shared_noise=0.3,
            own_noise=np.full(members, 1.0),
        )

    def draw(self, rows: int, seed: int, prefix: str = "s") -> tuple[StackingRows, Floats]:
        """Return rows of new speakers, 40 of each, and the Bayes rule's probabilities ``(N, C)``.

        Args:
            rows: N.
            seed: of everything.
            prefix: of the speakers' names.
        """
        generator = np.random.default_rng(seed)
        members, classes = self.bias.shape
        truth = generator.integers(0, classes, rows)
        speaker = np.arange(rows) // ROWS_PER_SPEAKER
        of_speaker = generator.normal(0, np.sqrt(self.speaker_noise), (int(speaker.max()) + 1, classes))
        noise = of_speaker[speaker] + generator.normal(0, np.sqrt(self.shared_noise), (rows, classes))
        member_noise = generator.normal(size=(rows, members, classes)) * np.sqrt(self.own_noise)[:, None]
        evidence = (
            self.signal[:, None] * np.eye(classes)[truth][:, None] + self.bias + noise[:, None] + member_noise
        )
        probabilities = softmax(self.sharpness[:, None] * evidence)
        chances = self.agreement * np.eye(classes)[truth] + (1 - self.agreement) / classes
        ratings = 4 + np.sin(truth)[:, None] + generator.normal(0, 0.5, (rows, self.attributes))
        attribute_values = np.clip(
            ratings[:, None] + generator.normal(0, 1, (rows, members, self.attributes)), 1, 7
        )
        return (
            _as_rows(
                probabilities,
                attribute_values,
                generator.multinomial(self.raters, chances),
                ratings,
                speaker,
                prefix,
            ),
            self._bayes(probabilities),
        )

    def _bayes(self, probabilities: Floats) -> Floats:
        """Return the Bayes posterior given all members, ``(N, C)``."""
        covariance = np.diag(self.own_noise) + self.shared_noise + self.speaker_noise
        weights = np.linalg.solve(covariance, self.signal)
        evidence = np.log(probabilities) / self.sharpness[:, None] - self.bias
        return np.asarray(softmax(np.einsum("m,nmc->nc", weights, evidence)))


def _as_rows(
    probabilities: Floats,
    attribute_values: Floats,
    votes: NDArray[np.int64],
    ratings: Floats,
    speaker: NDArray[np.int64],
    prefix: str,
) -> StackingRows:
    members, num_classes = probabilities.shape[1:]
    classes = tuple(f"class-{index}" for index in range(num_classes))
    attributes = tuple(Attribute(f"attribute-{index}", 1.0, 7.0) for index in range(ratings.shape[1]))
    utterances = tuple(
        Utterance(
            id=f"{prefix}{who}/{row}",
            speaker=f"{prefix}{who}",
            votes=tuple(chosen),
            attributes=tuple(rated),
        )
        for row, (who, chosen, rated) in enumerate(
            zip(speaker.tolist(), votes.astype(np.float64).tolist(), ratings.tolist(), strict=True)
        )
    )
    corpus = Corpus(classes, attributes, utterances, Path())
    inputs = StackingInputs(
        ids=corpus.ids,
        members=tuple(f"member-{index}" for index in range(members)),
        classes=classes,
        attributes=attributes,
        class_probabilities=probabilities,
        attribute_values=attribute_values,
        extras=(),
        extra_values=np.empty((len(corpus), 0)),
    )
    return StackingRows(
        inputs=inputs,
        corpus=corpus,
        soft_targets=soft_targets(corpus, TargetPolicy()),
        labels=consensus(corpus),
        attribute_targets=ratings,
        folds=speaker % 5,
        origins=np.full(len(corpus), "out-of-fold"),
        fold_map_digest="",
    )


def some_members(rows: StackingRows, indices: list[int]) -> StackingRows:
    """Return the rows as these members alone see them."""
    inputs = replace(
        rows.inputs,
        members=tuple(rows.inputs.members[index] for index in indices),
        class_probabilities=rows.inputs.class_probabilities[:, indices],
        attribute_values=rows.inputs.attribute_values[:, indices],
    )
    return replace(rows, inputs=inputs)
