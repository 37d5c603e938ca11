import pytest

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.stacking.verdict import oppose, recommend

CLEAR = Difference(0.08, 0.05, 0.11, 0.001)
UNCLEAR = Difference(0.01, -0.01, 0.03, 0.4)
MARGINAL = Difference(0.03, 0.001, 0.06, 0.04)


def estimates(**values):
    return {
        name.replace("_", "-"): Estimate(value, value - 0.03, value + 0.03) for name, value in values.items()
    }


SCORES = estimates(soft_vote=0.43, neural=0.51, lightgbm=0.52)


def test_a_clear_winner_is_recommended():
    said = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, CLEAR, speakers=50).sentence
    assert said.startswith("Use lightgbm: its macro-F1 of 0.520 [0.490, 0.550] is above every other")
    assert "p = 0.002 after Holm's correction for 2 comparisons" in said


def test_where_nothing_differs_the_simplest_is_recommended():
    said = recommend(SCORES, {"soft-vote": CLEAR, "neural": UNCLEAR}, CLEAR, speakers=50).sentence
    assert "cannot be told apart from neural" in said
    assert "use the simplest of them, neural" in said
    assert recommend(SCORES, {"soft-vote": CLEAR, "neural": UNCLEAR}, CLEAR, speakers=50).stacker == "neural"
    assert said.endswith("It is clearly above soft-vote.")
    said = recommend(SCORES, {"soft-vote": UNCLEAR, "neural": UNCLEAR}, CLEAR, speakers=50).sentence
    assert "cannot be told apart from soft-vote and neural" in said
    assert "use the simplest of them, soft-vote" in said


def test_what_is_below_the_baseline_is_not_recommended_for_being_simple():
    behind = {"soft-vote": UNCLEAR, "neural": UNCLEAR}
    best = max(SCORES.values(), key=lambda estimate: estimate.value).value
    found = recommend(SCORES, behind, CLEAR, speakers=50, floor=best)
    assert SCORES[found.stacker].value == best
    assert f"the simplest of them that is not below the linear baseline, {found.stacker}" in found.sentence
    assert recommend(SCORES, behind, CLEAR, speakers=50, floor=0.0).stacker == "soft-vote"


def test_looking_at_several_pairs_asks_for_more():
    alone = recommend(estimates(neural=0.43, lightgbm=0.52), {"neural": MARGINAL}, CLEAR, speakers=50)
    assert alone.sentence.startswith("Use lightgbm")
    several = recommend(SCORES, {"soft-vote": MARGINAL, "neural": MARGINAL}, CLEAR, speakers=50).sentence
    assert "cannot be told apart" in several


def test_nothing_is_recommended_that_is_not_better_than_guessing():
    said = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, UNCLEAR, speakers=50).sentence
    assert said.startswith("Use none of them yet")
    assert "not clearly better than guessing (UAR +0.010 [-0.010, +0.030], p = 0.400)" in said
    worse = Difference(-0.08, -0.11, -0.05, 0.001)
    said = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, worse, speakers=50).sentence
    assert said.startswith("Use none of them yet")


def test_few_speakers_and_one_speaker_are_said():
    few = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, CLEAR, speakers=8)
    assert "Only 8 speakers: take the intervals as rough." in few.sentence
    assert "Only 19" in recommend(SCORES, {"neural": CLEAR}, CLEAR, speakers=19).sentence
    assert "Only" not in recommend(SCORES, {"neural": CLEAR}, CLEAR, speakers=20).sentence
    assert few.stacker == "lightgbm"
    nan = float("nan")
    unknown = Difference(0.1, nan, nan, nan)
    said = recommend({"soft-vote": Estimate(0.5, nan, nan)}, {}, unknown, speakers=1).sentence
    assert "no interval from one speaker" in said
    assert "Use none of them yet" in said


@pytest.mark.parametrize(("speakers", "rivals", "least"), [(4, 1, "0.125"), (5, 1, "0.062"), (6, 2, "0.062")])
def test_too_few_speakers_for_any_clear_difference_are_said(speakers, rivals, least):
    behind = dict.fromkeys(("neural", "lightgbm")[:rivals], UNCLEAR)
    scores = {"soft-vote": SCORES["soft-vote"], **{name: SCORES[name] for name in behind}}
    said = recommend(scores, behind, UNCLEAR, speakers=speakers).sentence
    assert f"With only {speakers} speakers no difference can be clear, however large it is" in said
    assert f"no p-value can be below {least}" in said
    assert "take the intervals as rough" not in said
    enough = recommend(scores, behind, UNCLEAR, speakers=speakers + 2).sentence
    assert "no difference can be clear" not in enough


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (CLEAR, "neural is better than lightgbm: macro-F1 +0.080 [+0.050, +0.110], p = 0.001."),
        (Difference(-0.08, -0.11, -0.05, 0.0004), "neural is worse than lightgbm: macro-F1 -0.080"),
        (UNCLEAR, "neural and lightgbm cannot be told apart: macro-F1 +0.010 [-0.010, +0.030], p = 0.400."),
    ],
)
def test_a_pair_is_called_different_only_where_its_interval_says_so(difference, words):
    assert oppose("neural", "lightgbm", difference).startswith(words)
    assert "after Holm's correction for 2 comparisons" in oppose("neural", "lightgbm", difference, 2)
