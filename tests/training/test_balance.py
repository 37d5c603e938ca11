import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sercache.training.losses import class_weights


def test_class_weights_follow_the_papers_formula_over_rows_that_have_a_target():
    targets = np.asarray([[1.0, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [np.nan] * 3])
    weights = class_weights(targets, 0.5)
    np.testing.assert_allclose(weights, [(3 / (3 * 2.5)) ** 0.5, (3 / (3 * 0.5)) ** 0.5, 1.0])
    np.testing.assert_array_equal(class_weights(targets, 0.0), [1, 1, 1])


@given(
    votes=st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=20),
    exponent=st.floats(0, 1),
)
def test_exponent_one_gives_every_class_the_same_mass_and_less_is_a_power_of_it(votes, exponent):
    targets = np.asarray(votes, float)
    targets /= targets.sum(axis=1, keepdims=True)
    full = class_weights(targets, 1.0)
    np.testing.assert_allclose((targets * full).sum(axis=0), len(targets) / 3)
    np.testing.assert_allclose(class_weights(targets, exponent), full**exponent)


def test_no_rows_with_targets_weigh_all_classes_alike():
    np.testing.assert_array_equal(class_weights(np.full((2, 3), np.nan), 0.5), [1, 1, 1])
