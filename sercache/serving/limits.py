"""What a server takes on, so that it always answers: sizes, lengths, times, and how many at once."""

from dataclasses import dataclass

_SAMPLES_A_SECOND = 96_000
"""48 kHz stereo. A small flac file can hold hours at 655 kHz in eight channels."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one server.

    Attributes:
        max_bytes: of one upload.
        max_seconds: of audio in one upload, and of what is predicted together.
        timeout_seconds: from the end of an upload to its answer; uploading may take as long again.
        queue: requests that are in the house at once, those being predicted counted.
        batch: requests that are predicted together at most.
        max_text: characters of a transcript.
    """

    max_bytes: int = 25_000_000
    max_seconds: float = 300.0
    timeout_seconds: float = 60.0
    queue: int = 32
    batch: int = 8
    max_text: int = 10_000

    @property
    def max_samples(self) -> float:
        """How many samples, of all channels, are decoded of one upload."""
        return self.max_seconds * _SAMPLES_A_SECOND
