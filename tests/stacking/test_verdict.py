import pytest

from sercache.evaluation.bootstrap import Difference, Estimate
from sercache.stacking.verdict import AgainstBaseline, compare_pair, recommend

CLEAR = Difference(0.08, 0.05, 0.11, 0.001)
UNCLEAR = Difference(0.01, -0.01, 0.03, 0.4)
MARGINAL = Difference(0.03, 0.001, 0.06, 0.04)


def estimates(**values):
    return {
        name.replace("_", "-"): Estimate(value, value - 0.03, value + 0.03) for name, value in values.items()
    }


SCORES = estimates(soft_vote=0.43, neural=0.51, lightgbm=0.52)


def test_a_clear_winner_is_recommended():
    sentence = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, CLEAR, speakers=50).sentences[0]
    assert sentence.startswith(
        "Use lightgbm: its macro-F1 of 0.520 [0.490, 0.550] is above that of every other"
    )
    assert "p = 0.002 after Holm's correction for 2 comparisons" in sentence


def test_where_nothing_differs_the_simplest_is_recommended():
    found = recommend(SCORES, {"soft-vote": CLEAR, "neural": UNCLEAR}, CLEAR, speakers=50)
    assert found.stacker == "neural"
    assert found.sentences == (
        "Use neural: lightgbm has the highest macro-F1 (0.520 [0.490, 0.550]) but cannot be told apart from "
        "neural (p = 0.400 after Holm's correction for 2 comparisons), and neural is the simplest of them. "
        "lightgbm is clearly above soft-vote.",
    )
    found = recommend(SCORES, {"soft-vote": UNCLEAR, "neural": UNCLEAR}, CLEAR, speakers=50)
    assert found.stacker == "soft-vote"
    assert found.sentences[0].startswith("Use soft-vote: lightgbm has the highest")
    assert "cannot be told apart from soft-vote and neural" in found.sentences[0]
    assert "and soft-vote is the simplest of them" in found.sentences[0]


def test_what_is_below_the_baseline_is_not_recommended_for_being_simple():
    behind = {"soft-vote": UNCLEAR, "neural": UNCLEAR}
    best = max(SCORES.values(), key=lambda estimate: estimate.value)
    high = AgainstBaseline(best, dict.fromkeys(SCORES, UNCLEAR))
    found = recommend(SCORES, behind, CLEAR, speakers=50, baseline=high)
    assert SCORES[found.stacker] == best
    assert f"that is not below the linear baseline is {found.stacker}" in found.sentences[1]
    low = AgainstBaseline(Estimate(0.0, 0.0, 0.0), dict.fromkeys(SCORES, UNCLEAR))
    assert recommend(SCORES, behind, CLEAR, speakers=50, baseline=low).stacker == "soft-vote"


def test_of_those_above_the_baseline_the_simplest_is_recommended():
    behind = {"soft-vote": UNCLEAR, "neural": UNCLEAR}
    baseline = AgainstBaseline(
        Estimate(0.4, 0.35, 0.45), {"soft-vote": UNCLEAR, "neural": CLEAR, "lightgbm": CLEAR}
    )
    found = recommend(SCORES, behind, CLEAR, speakers=50, baseline=baseline)
    assert found.stacker == "neural"
    assert found.sentences[0].startswith("Use neural: lightgbm has the highest macro-F1")
    assert "neural is the simplest of them that is above the linear baseline." in found.sentences[0]
    assert found.sentences[1] == (
        "neural is above the baseline (macro-F1 0.400 [0.350, 0.450]): +0.080 [+0.050, +0.110], p = 0.001 "
        "after Holm's correction for 3 comparisons."
    )


def test_where_nothing_is_above_the_baseline_it_alone_is_recommended():
    baseline = AgainstBaseline(Estimate(0.5, 0.45, 0.55), {"soft-vote": UNCLEAR, "neural": UNCLEAR})
    scores = estimates(soft_vote=0.5, neural=0.51)
    found = recommend(scores, {"soft-vote": UNCLEAR}, CLEAR, speakers=50, baseline=baseline)
    assert found.stacker == "soft-vote"
    assert found.sentences == (
        "Use the linear baseline alone: no meta-level is above its macro-F1 of 0.500 [0.450, 0.550] (the "
        "highest, soft-vote, differs by +0.010 [-0.010, +0.030], p = 0.400 after Holm's correction for 2 "
        "comparisons).",
        "Of the meta-levels neural has the highest score (macro-F1 0.510 [0.480, 0.540]) and cannot be told "
        "apart from soft-vote; the simplest of them is soft-vote.",
    )
    assert " ".join(found.sentences).count("Use ") == 1
    clear = recommend(scores, {"soft-vote": CLEAR}, CLEAR, speakers=50, baseline=baseline)
    assert (
        clear.sentences[1]
        == "Of the meta-levels neural has the highest score (macro-F1 0.510 [0.480, 0.540])."
    )
    same = AgainstBaseline(baseline.score, {"neural": Difference(0.0, 0.0, 0.0, 1.0)})
    alone = recommend(estimates(neural=0.5), {}, CLEAR, speakers=50, baseline=same)
    assert alone.sentences[0].endswith("(the highest, neural, scores the same).")
    unknown = AgainstBaseline(baseline.score, {"neural": Difference(0.3, *[float("nan")] * 3)})
    rough = recommend(estimates(neural=0.5), {}, CLEAR, speakers=50, baseline=unknown)
    assert "differs by +0.300, no interval from one speaker" in rough.sentences[0]


def test_a_recommended_one_that_is_not_above_the_baseline_is_reported_with_those_that_are():
    scores = estimates(soft_vote=0.43, neural=0.6)
    baseline = AgainstBaseline(Estimate(0.4, 0.35, 0.45), {"soft-vote": CLEAR, "neural": UNCLEAR})
    found = recommend(scores, {"soft-vote": CLEAR}, CLEAR, speakers=50, baseline=baseline)
    assert found.stacker == "neural"
    assert found.sentences[1].startswith("neural is not above the baseline (macro-F1 0.400")
    assert found.sentences[1].endswith("for 2 comparisons; soft-vote is.")


def test_looking_at_several_pairs_asks_for_more():
    alone = recommend(estimates(neural=0.43, lightgbm=0.52), {"neural": MARGINAL}, CLEAR, speakers=50)
    assert alone.sentences[0].startswith("Use lightgbm")
    several = recommend(SCORES, {"soft-vote": MARGINAL, "neural": MARGINAL}, CLEAR, speakers=50).sentences[0]
    assert "cannot be told apart" in several


def test_nothing_is_recommended_that_is_not_better_than_guessing():
    sentence = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, UNCLEAR, speakers=50).sentences[0]
    assert sentence.startswith("Use none of them yet")
    assert "not clearly better than guessing (UAR +0.010 [-0.010, +0.030], p = 0.400)" in sentence
    worse = Difference(-0.08, -0.11, -0.05, 0.001)
    sentence = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, worse, speakers=50).sentences[0]
    assert sentence.startswith("Use none of them yet")


def test_few_speakers_and_one_speaker_are_said():
    few = recommend(SCORES, {"soft-vote": CLEAR, "neural": CLEAR}, CLEAR, speakers=8)
    assert "Only 8 speakers: take the intervals as rough." in few.sentences[0]
    assert "Only 19" in recommend(SCORES, {"neural": CLEAR}, CLEAR, speakers=19).sentences[0]
    assert "Only" not in recommend(SCORES, {"neural": CLEAR}, CLEAR, speakers=20).sentences[0]
    assert few.stacker == "lightgbm"
    nan = float("nan")
    unknown = Difference(0.1, nan, nan, nan)
    sentence = recommend({"soft-vote": Estimate(0.5, nan, nan)}, {}, unknown, speakers=1).sentences[0]
    assert "no interval from one speaker" in sentence
    assert "Use none of them yet" in sentence


@pytest.mark.parametrize(("speakers", "rivals", "least"), [(4, 1, "0.125"), (5, 1, "0.062"), (6, 2, "0.062")])
def test_too_few_speakers_for_any_clear_difference_are_said(speakers, rivals, least):
    behind = dict.fromkeys(("neural", "lightgbm")[:rivals], UNCLEAR)
    scores = {"soft-vote": SCORES["soft-vote"], **{name: SCORES[name] for name in behind}}
    sentence = recommend(scores, behind, UNCLEAR, speakers=speakers).sentences[0]
    assert f"With only {speakers} speakers no difference can be clear, however large it is" in sentence
    assert f"no p-value can be below {least}" in sentence
    assert "take the intervals as rough" not in sentence
    enough = recommend(scores, behind, UNCLEAR, speakers=speakers + 2).sentences[0]
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
    assert compare_pair("neural", "lightgbm", difference).startswith(words)
    assert "after Holm's correction for 2 comparisons" in compare_pair("neural", "lightgbm", difference, 2)
