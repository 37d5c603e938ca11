"""Every form of predictions is read, matched by name; every fault is one line that says where."""

import numpy as np
import pytest

from sercache.errors import StackingError
from sercache.stacking.external.reading import member_names, read_predictions


@pytest.fixture(scope="module")
def simulation(request):
    return request.getfixturevalue("simulate")()


def test_probabilities_under_class_names_in_any_order_and_file_names_for_ids(
    simulation, tmp_path, write_plain
):
    table, corpus = simulation.tables[0], simulation.corpus
    read = read_predictions(write_plain(tmp_path, table, corpus), corpus)
    assert (read.name, read.ids, read.unknown_ids, read.is_hard) == ("m0", table.ids, (), False)
    np.testing.assert_allclose(read.class_probabilities, table.class_probabilities, atol=1e-5)
    np.testing.assert_allclose(read.class_probabilities.sum(axis=1), 1)
    assert np.isnan(read.attribute_values).all()


def test_our_own_posteriors_are_read_with_their_origins(simulation, tmp_path):
    table = simulation.tables[1]
    table.save(tmp_path / "m1.parquet")
    read = read_predictions(tmp_path / "m1.parquet", simulation.corpus)
    np.testing.assert_array_equal(read.origins, table.origins)
    np.testing.assert_allclose(read.class_probabilities, table.class_probabilities)
    np.testing.assert_allclose(read.attribute_values, table.attribute_values)


@pytest.mark.parametrize("written", [("Angry", "Neutral"), ("angry", "NEUTRAL"), ("A", "N")])
def test_decisions_are_names_or_letters(simulation, tmp_path, write_csv, written):
    rows = [["u00000.wav", written[0]], ["u00001.wav", written[1]]]
    read = read_predictions(
        write_csv(tmp_path / "a.csv", ["FileName", "Prediction"], rows), simulation.corpus
    )
    assert read.is_hard
    np.testing.assert_array_equal(read.class_probabilities, [[1, 0, 0, 0], [0, 0, 0, 1]])


def test_attributes_have_the_names_that_msp_podcast_gives_them(simulation, tmp_path, write_csv):
    path = write_csv(tmp_path / "a.csv", ["FileName", "EmoAct", "EmoVal"], [["u00002.wav", "4.5", "2"]])
    read = read_predictions(path, simulation.corpus)
    assert read.class_probabilities is None
    np.testing.assert_array_equal(read.attribute_values, [[4.5]])


def test_utterances_that_the_corpus_has_not_are_listed_and_left_out(simulation, tmp_path, write_csv):
    rows = [["u00000", "Sad"], ["stranger.wav", "Sad"]]
    read = read_predictions(write_csv(tmp_path / "a.csv", ["id", "label"], rows), simulation.corpus)
    assert (read.ids, read.unknown_ids) == (("u00000",), ("stranger.wav",))


PROBABILITIES = ["id", "Angry", "Sad", "Happy", "Neutral"]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["clip", "Prediction"], [["u00000", "Sad"]], "no column names the utterances"),
        (["id", "score"], [["u00000", "1"]], "it has no predictions: it needs a column for each of Angry"),
        (["id", "Prediction"], [["u00000", "Sadd"]], r"line 2: 'Sadd' is no class .* Did you mean 'Sad'\?"),
        (["id", "Prediction"], [["u00000", "Sad"], ["u00000.wav", "Sad"]],
         r"line 3: 'u00000.wav' was predicted before, in line 2"),
        (["id", "Prediction"], [["x", "Sad"]], "none of its 1 utterances is in the corpus, first 'x'"),
        (["id", "Angry", "Sad"], [["u00000", "1", "0"]], "no column for the class Happy, Neutral"),
        (PROBABILITIES, [["u00000", "2", "1", "-1", "0"]], "line 2: a probability is negative"),
        (PROBABILITIES, [["u00000", "2", "1", "1", "0"]], "line 2: the probabilities add up to 4, not to 1"),
        (PROBABILITIES, [["u00000", "1", "0", "0", "0"], ["u00001", "a", "0", "0", "0"]],
         "line 3: 'a' is not a number"),
        (PROBABILITIES, [["u00000", "nan", "1", "0", "0"]], "line 2: nan is not a finite number"),
        ([*PROBABILITIES, "origin"], [["u00000", "1", "0", "0", "0", "dev"]], "line 2: unknown origin 'dev'"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_place(simulation, tmp_path, write_csv, header, rows, message):
    path = write_csv(tmp_path / "a.csv", header, rows)
    with pytest.raises(StackingError, match=message) as caught:
        read_predictions(path, simulation.corpus)
    assert str(caught.value).startswith("a.csv")
    assert "\n" not in str(caught.value)


def test_a_file_name_of_two_utterances_is_refused(simulation, tmp_path, write_csv):
    from dataclasses import replace

    corpus = simulation.corpus
    first, second, *_ = corpus.utterances
    twins = replace(
        corpus, utterances=(replace(first, id="a/x", audio=None), replace(second, id="b/x", audio=None))
    )
    path = write_csv(tmp_path / "a.csv", ["id", "Prediction"], [["x.wav", "Sad"]])
    with pytest.raises(StackingError, match=r"line 2: 'x.wav' may be any of a/x, b/x; write utterance ids"):
        read_predictions(path, twins)


def test_what_is_no_table_is_refused(simulation, tmp_path):
    with pytest.raises(StackingError, match="does not exist"):
        read_predictions(tmp_path / "a.csv", simulation.corpus)
    (tmp_path / "a.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(StackingError):
        read_predictions(tmp_path / "a.parquet", simulation.corpus)


def test_names_tell_files_apart_by_as_many_folders_as_it_takes_and_one_file_twice_is_refused(tmp_path):
    paths = [tmp_path / place for place in ("a/p/m0.csv", "b/p/m0.csv", "b/q/m0.csv", "m1.csv")]
    assert member_names(paths) == ["a-p-m0", "b-p-m0", "q-m0", "m1"]
    assert member_names(paths[1:3]) == ["p-m0", "q-m0"]
    with pytest.raises(StackingError, match=r"m1\.csv is given twice"):
        member_names([*paths, tmp_path / "a" / ".." / "m1.csv"])
