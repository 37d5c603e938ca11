import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sercache.training.rows import balanced_draw, epoch_batches


def epoch(lengths, batch_size, generator):
    return epoch_batches(lengths, generator.permutation(len(lengths)), batch_size, generator)


def draw(consensus, num_classes, share, generator):
    return balanced_draw(consensus, generator.permutation(len(consensus)), num_classes, share)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_an_epoch_holds_every_row_once_in_batches_of_the_right_size(lengths, batch_size, seed):
    batches = epoch(np.asarray(lengths), batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size


def test_batches_differ_from_epoch_to_epoch_and_hold_similar_lengths():
    lengths = np.random.default_rng(0).integers(10, 1000, 2000)
    generator = np.random.default_rng(1)
    first, second = (epoch(lengths, 32, generator) for _ in range(2))
    assert {tuple(batch) for batch in first}.isdisjoint(tuple(batch) for batch in second)
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert padded / lengths.sum() < 1.15


@given(
    labels=st.lists(st.integers(-3, 3), min_size=1, max_size=80),
    share=st.floats(0, 3),
    seed=st.integers(0, 99),
)
def test_a_balanced_draw_has_as_many_rows_of_every_class_as_the_rarest(labels, share, seed):
    consensus = np.asarray(labels)
    drawn = draw(consensus, 4, share, np.random.default_rng(seed))
    assert len(set(drawn.tolist())) == len(drawn)
    counts = np.bincount(consensus[consensus >= 0], minlength=4)
    if not counts.any():
        assert len(drawn) == len(labels)
        return
    rarest = counts[counts > 0].min()
    taken = np.bincount(consensus[drawn][consensus[drawn] >= 0], minlength=4)
    assert set(taken.tolist()) <= {0, rarest}
    assert -3 not in consensus[drawn]  # nobody rated it: neither in a class nor in dispute
    disputed = np.isin(consensus, (-1, -2))
    assert disputed[drawn].sum() == min(disputed.sum(), round(share * rarest))


def test_the_balanced_draw_is_another_one_every_epoch():
    consensus = np.asarray([0] * 10 + [1] * 1000 + [-1] * 500)
    generator = np.random.default_rng(0)
    draws = [set(draw(consensus, 2, 1.0, generator).tolist()) for _ in range(5)]
    common = set.intersection(*draws)
    assert common == set(range(10))


@given(rows=st.integers(200, 600), seed=st.integers(0, 99))
def test_a_small_corpus_gets_other_batch_mates_every_epoch_too(rows, seed):
    lengths = np.arange(rows)
    generator = np.random.default_rng(seed)
    first, second = ({frozenset(batch.tolist()) for batch in epoch(lengths, 32, generator)} for _ in range(2))
    assert len(first & second) <= 1
    sizes = sorted(map(len, first))
    assert all(size == 32 for size in sizes[1:])  # no more partial batches than need be


def test_a_class_that_the_fold_lacks_is_skipped_and_a_fold_without_classes_is_taken_whole():
    generator = np.random.default_rng(0)
    drawn = draw(np.asarray([0, 0, 2, 2, 2, -1, -2]), 4, 0.5, generator)
    assert len(drawn) == 2 + 2 + 1
    assert draw(np.asarray([-1, -2, -3]), 4, 1.0, generator).tolist() == [0, 1, 2]
