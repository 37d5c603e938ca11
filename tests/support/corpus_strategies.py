"""Random corpora for property tests, and small ones by hand."""

from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from sercache.corpus import SPLITS, Attribute, Corpus, Utterance

NAN = float("nan")

names = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
ids = texts.filter(str.strip)
vote_counts = st.one_of(
    st.integers(0, 9).map(float), st.floats(0, 20, allow_subnormal=False).map(lambda value: round(value, 3))
)


def make_corpus(
    votes: Sequence[Sequence[float]],
    secondary: Sequence[Sequence[float]] | None = None,
    other: Sequence[float] | None = None,
    speakers: Sequence[str | None] | None = None,
) -> Corpus:
    """A corpus of ``len(votes)`` rows called u0000, u0001, ... over classes c0, c1, ..."""
    classes = tuple(f"c{index}" for index in range(len(votes[0])))
    utterances = tuple(
        Utterance(
            id=f"u{row:04}",
            text="x",
            speaker=speakers[row] if speakers else None,
            votes=tuple(map(float, votes[row])),
            secondary_votes=tuple(map(float, secondary[row])) if secondary else (),
            other_votes=float(other[row]) if other else 0.0,
        )
        for row in range(len(votes))
    )
    return Corpus(classes, (), utterances, Path())


@st.composite
def corpora(draw: st.DrawFn, root: Path = Path("/somewhere/else")) -> Corpus:
    """Corpora with everything that a manifest can hold."""
    classes = tuple(draw(st.lists(names.filter(lambda name: name not in "XO"), unique=True, max_size=4)))
    attributes = tuple(
        Attribute(name, low, low + width)
        for name, low, width in draw(
            st.lists(
                st.tuples(names, st.integers(-3, 3).map(float), st.sampled_from([0.5, 4.0, 1 / 3])),
                max_size=3,
                unique_by=lambda triple: triple[0],
            )
        )
    )
    extra_names = draw(st.lists(names.map(lambda name: f"x{name}"), unique=True, max_size=2))
    utterances = []
    for utterance_id in draw(st.lists(ids, min_size=1, max_size=6, unique=True)):
        start = draw(st.none() | st.floats(0, 100))
        audio = draw(st.none() | names.map(lambda name: f"audio/{name}.wav"))
        votes = draw(st.lists(vote_counts, min_size=len(classes), max_size=len(classes)))
        second = draw(st.just([]) | st.lists(vote_counts, min_size=len(classes), max_size=len(classes)))
        values = [draw(st.just(NAN) | st.floats(attribute.low, attribute.high)) for attribute in attributes]
        utterances.append(
            Utterance(
                id=utterance_id,
                audio=audio,
                text=draw(st.none() | texts),
                speaker=draw(st.none() | texts),
                split=draw(st.none() | st.sampled_from(SPLITS)),
                start_seconds=start,
                end_seconds=None if start is None else start + draw(st.floats(0.1, 10)),
                votes=tuple(votes),
                secondary_votes=tuple(second),
                other_votes=draw(st.just(0.0) | vote_counts),
                attributes=tuple(values),
                extras={name: draw(texts) for name in extra_names if draw(st.booleans())},
            )
        )
    return Corpus(classes, attributes, tuple(utterances), root)
