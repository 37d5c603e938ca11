"""The cost of members on a new recording: which encoders they need, and how long these take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sercache.cache.store import Cache, FeatureSet
from sercache.cache.usage import read_speeds
from sercache.errors import CacheError
from sercache.recipe import Recipe
from sercache.run import DerivedMember


@dataclass(frozen=True)
class Cost:
    """The encoders that some members need, and the seconds these take.

    Attributes:
        encoders: their names, each once.
        seconds_per_minute: of encoding, for a minute of speech; None where one was never measured.
    """

    encoders: tuple[str, ...]
    seconds_per_minute: float | None


@dataclass(frozen=True)
class MemberCosts:
    """The encoders that every member of a run needs, and the seconds of each encoder.

    Attributes:
        encoders: of each member.
        seconds: what a minute of speech costs by encoder; None where it was never measured.
        device: what it was measured on.
    """

    encoders: Mapping[str, frozenset[str]]
    seconds: Mapping[str, float | None]
    device: str

    def of(self, members: Iterable[str]) -> Cost:
        """Return what these members need together: an encoder that several read runs once."""
        needed = sorted({encoder for member in members for encoder in self.encoders[member]})
        known = [seconds for encoder in needed if (seconds := self.seconds[encoder]) is not None]
        return Cost(tuple(needed), sum(known) if len(known) == len(needed) else None)


def member_costs(recipe: Recipe, derived: Sequence[DerivedMember] = ()) -> MemberCosts | None:
    """Return the costs of a run's members, as extraction measured them; None if the cache is gone.

    Feature sets of one encoder that differ in layers or pooling come of one forward pass: the slowest counts.
    A fine-tuned encoder counts by itself, and takes a pass for each fold's weights.

    Args:
        recipe: of the run.
        derived: further members of the run.
    """
    members = [*recipe.members, *(derived_member.member for derived_member in derived)]
    try:
        sets = {
            name: Cache(recipe.cache).find(recipe.features[name])
            for name in sorted({feature for member in members for feature in member.features})
        }
    except CacheError:
        return None
    speeds = {name: read_speeds(feature_set.folder) for name, feature_set in sets.items()}
    devices = [set(by_device) for by_device in speeds.values() if by_device]
    shared = sorted(set.intersection(*devices)) if devices else []
    device = shared[-1] if shared else ""
    seconds: dict[str, float | None] = {}
    for name, feature_set in sets.items():
        encoder, measured = _encoder_of(feature_set), speeds[name].get(device)
        measured_seconds = measured.seconds_per_minute if measured is not None else None
        before = seconds.get(encoder, 0.0)
        seconds[encoder] = (
            None if measured_seconds is None or before is None else max(measured_seconds, before)
        )
    encoders = {
        member.name: frozenset(_encoder_of(sets[feature]) for feature in member.features)
        for member in members
    }
    for finetuned in derived:
        if finetuned.kind != "finetuned":
            continue
        needed = set()
        for feature in finetuned.member.features:
            encoder = _encoder_of(sets[feature])
            if feature in finetuned.settings["features"]:
                single_pass = seconds[encoder]
                encoder = f"{encoder} ({finetuned.name})"
                seconds[encoder] = None if single_pass is None else single_pass * recipe.folds.count
            needed.add(encoder)
        encoders[finetuned.name] = frozenset(needed)
    return MemberCosts(encoders, seconds, device)


def _encoder_of(feature_set: FeatureSet) -> str:
    return feature_set.spec.encoder
