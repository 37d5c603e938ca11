import pytest

from sercache.recipe import StackingRecipe
from sercache.stacking.neural import Soup, SoupAccount

STANDINGS = {
    name: {"macro_f1": score, "log_loss": 1.0}
    for name, score in (("uniform", 0.51), ("greedy", 0.52), ("best run", 0.515))
}


def test_a_saved_soup_tells_how_it_came_about_with_the_barrier_between_every_pair(rows, tmp_path):
    settings = StackingRecipe(neural={"runs": 3, "epochs": 4, "hidden": 4})
    soup = Soup.from_recipe(settings, 0)
    soup.fit(rows)
    soup.save(tmp_path)
    account = SoupAccount.read(tmp_path)
    assert set(account.barriers) == {"0-1", "0-2", "1-2"}
    assert account.barrier == max(account.barriers.values()) >= 0
    assert set(account.scores) == {"uniform", "greedy", "best run"}
    assert f"{account.kept}, of {len(account.runs)} run" in account.sentence


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (
            SoupAccount("greedy", (0, 2), STANDINGS, {"0-1": 0.0, "0-2": 0.0002, "1-2": 0.0001}),
            "The soup is greedy, of 2 runs (macro-F1 on the rows it stopped on: uniform 0.510, greedy 0.520, "
            "best run 0.515); no barrier lies between any two runs (log-loss +0.0002 at most).",
        ),
        (
            SoupAccount("best run", (1,), STANDINGS, {"0-1": 0.25}),
            "The soup is the best run, of 1 run (macro-F1 on the rows it stopped on: uniform 0.510, greedy "
            "0.520, best run 0.515); a barrier lies between its runs: log-loss +0.250.",
        ),
        (
            SoupAccount("uniform", (0, 1), {}, {}),
            "The soup is uniform, of 2 runs; there were no rows of other speakers to score it on.",
        ),
    ],
)
def test_the_sentence_says_what_was_kept_and_whether_the_runs_lie_in_one_basin(account, words):
    assert account.sentence == words
