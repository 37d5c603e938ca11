"""Normalise the frames of recordings per speaker, for members that were trained so."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sercache.bundle.clips import Recording
from sercache.bundle.features import Encoded
from sercache.errors import BundleError
from sercache.training.standardize import MIN_CLIPS, FrameSums

Floats = NDArray[np.float32]


def refuse_unknown_speakers(name: str, recordings: Sequence[Recording]) -> None:
    """Raise unless at least one speaker has enough recordings.

    Args:
        name: the bundle's.
        recordings: all that are to be predicted.

    Raises:
        BundleError: no speaker is known, or none has enough recordings; states how many it takes.
    """
    counts = Counter(recording.speaker for recording in recordings if recording.speaker is not None)
    if counts and max(counts.values()) >= MIN_CLIPS:
        return
    need = f"{name} normalises each speaker with {MIN_CLIPS} or more recordings of the speaker"
    if not counts:
        raise BundleError(
            f"{need}, and no speaker is known: give --speaker NAME where all recordings are of one "
            "speaker, or a manifest with a column speaker (--corpus)"
        )
    speaker, count = counts.most_common(1)[0]
    raise BundleError(
        f"{need}; there {'is' if count == 1 else 'are'} {count} of '{speaker}', and no more of others"
    )


@dataclass
class SpeakerFrames:
    """Mean and scale of the frames of each speaker among the recordings, by feature set and speaker.

    Attributes:
        sums: over the frames of each speaker's recordings, by feature set and speaker.
    """

    sums: dict[tuple[str, str], FrameSums] = field(default_factory=dict)
    _moments: dict[tuple[str, str], tuple[Floats, Floats]] = field(default_factory=dict, repr=False)

    def add(self, feature: str, encoded: Encoded, speakers: Sequence[str | None]) -> None:
        """Add the frames of whole recordings in one feature set to the sums of their speakers."""
        for frames, speaker in zip(encoded.frames, speakers, strict=True):
            if frames is not None and speaker is not None:
                self.sums.setdefault((feature, speaker), FrameSums()).add(frames)

    def normalize(self, feature: str, encoded: Encoded, speakers: Sequence[str | None]) -> Encoded:
        """Return the same segments with frames normalised per speaker beside those that are not.

        A segment whose speaker is not known, or has too few recordings, gets an error instead of frames.
        """
        normalized: list[Floats | None] = []
        errors: dict[int, str] = {}
        for index, (frames, speaker) in enumerate(zip(encoded.frames, speakers, strict=True)):
            if frames is None:
                normalized.append(None)
                continue
            sums = self.sums.get((feature, speaker or ""))
            if sums is None or sums.clips < MIN_CLIPS:
                normalized.append(None)
                errors[index] = _why(speaker, 0 if sums is None else sums.clips)
                continue
            mean, scale = self._of(feature, speaker or "", (frames.shape[0], frames.shape[2]))
            normalized.append((frames - mean[:, None]) * scale[:, None])  # (L, T, D)
        return replace(encoded, normalized=tuple(normalized), errors={**encoded.errors, **errors})

    def _of(self, feature: str, speaker: str, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        key = (feature, speaker)
        if key not in self._moments:
            self._moments[key] = self.sums[key].moments(shape)
        return self._moments[key]


def _why(speaker: str | None, clips: int) -> str:
    need = f"members are normalised per speaker and need {MIN_CLIPS} recordings of the speaker"
    if speaker is None:
        return f"{need}; the speaker of this one is not known"
    return f"{need}; there {'is' if clips == 1 else 'are'} {clips} of '{speaker}'"


def with_transcripts(recordings: Sequence[Recording], texts: Mapping[int, str]) -> list[Recording]:
    """Return the recordings with transcripts, by position, where a recording has no text."""
    return [
        recording if recording.text or position not in texts else replace(recording, text=texts[position])
        for position, recording in enumerate(recordings)
    ]
