"""What members cost to run on a new recording: which encoders, and how long those take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sercache.cache.store import Cache, FeatureSet
from sercache.cache.usage import read_speeds
from sercache.errors import CacheError
from sercache.recipe import Recipe
from sercache.run import DerivedMember


@dataclass(frozen=True)
class Cost:
    """What some members need.

    Attributes:
        encoders: their names, each once.
        seconds_per_minute: of encoding, for a minute of speech; None where one was never measured.
    """

    encoders: tuple[str, ...]
    seconds_per_minute: float | None


@dataclass(frozen=True)
class MemberCosts:
    """What every member of a run needs.

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
        each = [self.seconds[encoder] for encoder in needed]
        known = [seconds for seconds in each if seconds is not None]
        return Cost(tuple(needed), sum(known) if len(known) == len(each) else None)


def member_costs(recipe: Recipe, derived: Sequence[DerivedMember] = ()) -> MemberCosts | None:
    """Return the costs of a run's members, as extraction measured them; None if the cache is gone.

    Feature sets of one encoder that differ in layers or pooling come of one forward pass: the dearest counts.
    A fine-tuned encoder is one of its own, and takes a pass for each fold's weights.

    Args:
        recipe: of the run.
        derived: members that the run has beside.
    """
    members = [*recipe.members, *(one.member for one in derived)]
    try:
        sets = {
            name: Cache(recipe.cache).find(recipe.features[name])
            for name in sorted({feature for member in members for feature in member.features})
        }
    except CacheError:
        return None
    speeds = {name: read_speeds(one.folder) for name, one in sets.items()}
    devices = [set(one) for one in speeds.values() if one]
    shared = sorted(set.intersection(*devices)) if devices else []
    device = shared[-1] if shared else ""
    seconds: dict[str, float | None] = {}
    for name, feature_set in sets.items():
        encoder, measured = _encoder_of(feature_set), speeds[name].get(device)
        mine = measured.seconds_per_minute if measured is not None else None
        before = seconds.get(encoder, 0.0)
        seconds[encoder] = None if mine is None or before is None else max(mine, before)
    encoders = {
        member.name: frozenset(_encoder_of(sets[feature]) for feature in member.features)
        for member in members
    }
    for one in derived:
        if one.kind != "finetuned":
            continue
        own = set()
        for feature in one.member.features:
            encoder = _encoder_of(sets[feature])
            if feature in one.settings["features"]:
                once = seconds[encoder]
                encoder = f"{encoder} ({one.name})"
                seconds[encoder] = None if once is None else once * recipe.folds.count
            own.add(encoder)
        encoders[one.name] = frozenset(own)
    return MemberCosts(encoders, seconds, device)


def _encoder_of(feature_set: FeatureSet) -> str:
    return feature_set.spec.encoder
