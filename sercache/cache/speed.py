"""What it took to encode what a feature set holds, measured while it was made."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sercache.files import read_json, write_json

SPEED_NAME = "speed.json"


@dataclass(frozen=True, slots=True)
class EncodingSpeed:
    """How long an encoder took.

    Attributes:
        speech_seconds: of what it encoded; of text, as long as it would take to say.
        encode_seconds: in the encoder: no decoding, no writing.
    """

    speech_seconds: float
    encode_seconds: float

    @property
    def seconds_per_minute(self) -> float:
        """What a minute of speech costs."""
        return 60 * self.encode_seconds / self.speech_seconds if self.speech_seconds else float("nan")


def add_speed(folder: Path, device: str, speed: EncodingSpeed) -> None:
    """Add to what a feature set's folder says of a kind of device, ``cpu`` or ``cuda``.

    Of two processes that add at once one may be lost, its speech with its time: the ratio stays.

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    known = read_speeds(folder)
    before = known.get(device, EncodingSpeed(0.0, 0.0))
    known[device] = EncodingSpeed(
        before.speech_seconds + speed.speech_seconds, before.encode_seconds + speed.encode_seconds
    )
    write_json(folder / SPEED_NAME, {name: asdict(one) for name, one in known.items()})


def read_speeds(folder: Path) -> dict[str, EncodingSpeed]:
    """Return what is known by kind of device; nothing where it was never measured or cannot be read."""
    try:
        found: Any = read_json(folder / SPEED_NAME)
        return {
            str(device): EncodingSpeed(float(one["speech_seconds"]), float(one["encode_seconds"]))
            for device, one in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
