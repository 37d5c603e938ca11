import json
from pathlib import Path

import numpy as np
import pytest

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.report import as_json, report_corpus
from sercache.errors import Interrupted
from sercache.events import Context


def corpus_of(count: int, **changes: object) -> Corpus:
    rows = []
    for place in range(count):
        given: dict[str, object] = {
            "id": f"u{place}",
            "text": f"this is sentence number {place}",
            "speaker": f"s{place % 10}",
            "votes": (3.0, 0.0) if place % 2 else (1.0, 2.0),
            "extras": {"seconds": "2.5"},
        }
        rows.append(Utterance(**(given | changes)))  # type: ignore[arg-type]
    return Corpus(("A", "B"), (), tuple(rows), Path())


def findings(corpus: Corpus) -> list[str]:
    return [
        f"{finding.gravity}: {finding.message}" for finding in report_corpus(Path("c.csv"), corpus).findings
    ]


def test_a_healthy_corpus_says_only_how_far_raters_agree() -> None:
    (only,) = findings(corpus_of(100))
    assert only.startswith("note: alpha 0.")


def test_the_gravest_comes_first() -> None:
    rows = corpus_of(100).utterances
    split = [
        Utterance(row.id, speaker=row.speaker, votes=row.votes, split="test" if place < 5 else "train")
        for place, row in enumerate(rows)
    ]
    found = findings(Corpus(("A", "B"), (), tuple(split), Path()))
    assert found[0].startswith("leak: train and test share 5 speakers, such as 's0' (45 and 5 utterances)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker": None}, "warning: no speaker is named"),
        ({"speaker": "one"}, "warning: 1 speaker: as many folds at most"),
        ({"votes": (1.0, 0.0)}, "warning: no utterance has 'B' as its consensus"),
        ({"votes": (0.0, 0.0)}, "warning: nobody voted"),
        ({"extras": {"seconds": "70"}}, "note: the longest utterance has 70 s"),
        ({"text": "all of them say so"}, "note: several speakers share 1 sentence"),
        ({"votes": (0.5, 0.25)}, "note: 100 utterances with parts of votes"),
    ],
)
def test_it_says_what_one_should_know(changes: dict[str, object], message: str) -> None:
    assert any(finding.startswith(message) for finding in findings(corpus_of(100, **changes)))


def test_rare_classes_and_classes_of_few_speakers_are_named() -> None:
    rows = list(corpus_of(100).utterances)
    rows += [Utterance(f"c{place}", speaker="s0", votes=(0, 0, 2)) for place in range(25)]
    rows += [Utterance("d", speaker="s1", votes=(0, 0, 0, 1))]
    votes = [(*row.votes, 0.0, 0.0, 0.0)[:4] for row in rows]
    full = [
        Utterance(row.id, speaker=row.speaker, votes=counts) for row, counts in zip(rows, votes, strict=True)
    ]
    found = findings(Corpus(tuple("ABCD"), (), tuple(full), Path()))
    assert any("fewer than 20 utterances of 'D'" in finding for finding in found)
    assert any("fewer than 5 speakers of 'C'" in finding for finding in found)


def test_the_json_is_whole_and_plain() -> None:
    content = as_json(report_corpus(Path("c.csv"), corpus_of(20)))
    assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))
    assert content["summary"]["total"]["utterances"] == 20
    assert content["seconds"]["quantiles"]["median"] == 2.5
    assert content["speakers"]["by_class"] == {"A": 5, "B": 5}
    assert np.isclose(content["agreement"]["unanimous"], 0.5)


def test_it_can_be_stopped() -> None:
    with pytest.raises(Interrupted, match="after 0 of 20 recordings"):
        report_corpus(Path("c.csv"), corpus_of(20), context=Context(should_stop=lambda: True))


def rated_corpus(values: list[tuple[float, float]]) -> Corpus:
    attributes = (Attribute("arousal", 1, 7), Attribute("valence", -1, 1))
    rows = tuple(
        Utterance(f"u{place}", speaker=f"s{place % 10}", attributes=ratings, extras={"seconds": "2.5"})
        for place, ratings in enumerate(values)
    )
    return Corpus((), attributes, rows, Path())


def test_attributes_alone_are_described_by_their_ratings() -> None:
    values = [(1.0 + place % 7, np.nan if place % 4 else -0.5 + place / 100) for place in range(100)]
    report = report_corpus(Path("c.csv"), rated_corpus(values))
    arousal, valence = report.attributes
    assert arousal.values is not None
    assert arousal.values.count == 100
    assert arousal.values.mean == pytest.approx(np.mean([ratings[0] for ratings in values]))
    assert arousal.deviation == pytest.approx(np.std([ratings[0] for ratings in values]))
    assert valence.values is not None
    assert valence.values.quantiles["least"] == -0.5
    assert [finding.message for finding in report.findings] == ["75 utterances without a rating of 'valence'"]
    assert as_json(report)["attributes"][1]["name"] == "valence"


def test_what_cannot_be_learned_of_attributes_alone_is_said() -> None:
    found = findings(rated_corpus([(3.0, np.nan)] * 40))
    assert "warning: all ratings of 'arousal' are equal: there is nothing to learn" in found
    assert "warning: nobody rated 'valence': it cannot be learned" in found
    few = findings(rated_corpus([(1.0 + place, 0.1) if place < 5 else (np.nan, -0.2) for place in range(40)]))
    assert "warning: fewer than 20 utterances rate 'arousal': its CCC will be unreliable" in few
