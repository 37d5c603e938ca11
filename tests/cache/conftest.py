from dataclasses import replace

import pytest

from sercache.cache.writer import publish_shard, start_feature_set
from support.stored_utterances import SPEC, utterance


@pytest.fixture
def spec():
    return SPEC


@pytest.fixture
def make_utterance():
    return utterance


@pytest.fixture
def make_feature_set(tmp_path):
    """Build a feature set from ``{task: {id: frame count}}``; changes to the spec as keywords."""

    def make(tasks, root=tmp_path / "cache", **changes):
        feature_set = start_feature_set(root, replace(SPEC, **changes))
        for task, counts in tasks.items():
            rows = [utterance(name, count, feature_set.spec) for name, count in counts.items()]
            publish_shard(feature_set, task, rows)
        return type(feature_set)(feature_set.folder)

    return make
