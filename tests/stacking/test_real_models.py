import pytest

from sercache.stacking.comparison import compare
from support.command_line import invoke

pytestmark = pytest.mark.slow


def test_learned_stackers_beat_the_vote_and_the_best_of_44_real_models_on_new_speakers(
    stacker44, tmp_path, capsys
):
    run = stacker44.run(tmp_path)
    comparison = compare(run)
    macro_f1 = {row.stacker: row.scores["macro_f1"] for row in comparison.rows}
    divergence = {row.stacker: row.scores["jsd"] for row in comparison.rows}
    for learned in ("neural", "soup", "lightgbm"):
        assert macro_f1[learned].value > macro_f1["best-single"].value
        (row,) = [row for row in comparison.rows if row.stacker == learned]
        assert row.to_soft_vote["macro_f1"].is_clear
        assert row.to_soft_vote["macro_f1"].low > 0
        assert row.scores["jsd"].high < divergence["soft-vote"].low
    assert comparison.speakers == 91
    printed = invoke("stack", run.root).stdout
    with capsys.disabled():
        print(printed)
