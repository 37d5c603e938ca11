"""The measurements of a cache: that they measure what they say; their figures are the machine's affair."""

import numpy as np
import pytest

from sercache.benchmarks import ways
from sercache.benchmarks.cache_opening import measure_opening
from sercache.benchmarks.cache_reading import measure_reading
from sercache.benchmarks.synthetic import synthetic_feature_set
from sercache.benchmarks.ways import Sample
from sercache.cache.verify import verify
from sercache.errors import CacheError, Interrupted
from sercache.events import Context


@pytest.fixture(scope="module")
def feature_set(tmp_path_factory):
    return synthetic_feature_set(tmp_path_factory.mktemp("cache"), 150, 20, 8)


def test_synthetic_features_are_a_sound_feature_set_and_the_same_every_time(feature_set, tmp_path):
    assert len(feature_set) == 150
    assert verify(feature_set) == []
    assert 10 < feature_set.frame_counts(feature_set.ids).mean() < 40
    again = synthetic_feature_set(tmp_path, 150, 20, 8)
    contents = [[path.read_bytes() for path in stored.shard_paths] for stored in (feature_set, again)]
    assert contents[0] == contents[1]


def test_every_way_gives_the_same_frames(feature_set, tmp_path):
    from contextlib import ExitStack

    generator = np.random.default_rng(0)
    sample = Sample.draw(feature_set, 20_000, generator)
    assert 1 < len(sample.locations) < 150
    batches = np.array_split(generator.permutation(len(sample.locations)), 3)
    with ExitStack() as opened:
        others = [
            ways.cached(sample),
            ways.cached(sample, is_announced=False),
            ways.unadvised_maps(sample),
            ways.npy_files(sample, tmp_path),
            ways.safetensors_files(sample, tmp_path, opened),
            ways.h5py_slices(sample, opened),
        ]
        for way in others:
            read = [[np.array(clip) for clip in clips] for clips in way(batches)]
            wanted = [list(clips) for clips in ways.plain_memory(sample)(batches)]
            for mine, theirs in zip(read, wanted, strict=True):
                for read, other in zip(mine, theirs, strict=True):
                    np.testing.assert_array_equal(read, other)


def test_plain_memory_is_what_all_others_are_a_share_of(feature_set):
    events = []
    reading = measure_reading(feature_set, rounds=2, batch_size=16, context=Context(listener=events.append))
    assert reading.utterances == 150
    assert reading.payload_bytes == feature_set.frame_counts(feature_set.ids).sum() * 8 * 2
    assert [warm.way for warm in reading.warm][:2] == ["plain memory", "sercache"]
    assert reading.warm[0].share_of_memory == 1
    assert all(speed.bytes_per_second > 0 for speed in (*reading.warm, *reading.cold))
    assert events[-1].kind == "finish"


def test_opening_is_measured_in_another_process(feature_set):
    opening = measure_opening(feature_set.folder)
    assert (opening.utterances, opening.shards, opening.index_bytes) == (150, 1, 0)
    assert 0 < opening.open_seconds < 60


def test_there_must_be_something_to_measure(tmp_path):
    empty = synthetic_feature_set(tmp_path, 1, 1, 4)
    empty.shard_paths[0].unlink()
    with pytest.raises(CacheError, match="holds no utterances"):
        measure_opening(empty.folder)
    with pytest.raises(CacheError, match="holds no utterances"):
        measure_reading(type(empty)(empty.folder))


def test_measuring_can_be_stopped(feature_set, tmp_path):
    with pytest.raises(Interrupted):
        measure_reading(feature_set, context=Context(should_stop=lambda: True))
    with pytest.raises(Interrupted):
        synthetic_feature_set(tmp_path, 10, 2, 4, context=Context(should_stop=lambda: True))
