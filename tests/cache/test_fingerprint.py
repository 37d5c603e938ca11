import json
from dataclasses import fields, replace

import pytest

from sercache.cache.fingerprint import FeatureSpec

OTHER = {
    "encoder": "facebook/hubert-large-ll60k",
    "revision": "ffffffff",
    "modality": "text",
    "layers": ("layer-12",),
    "num_layers": 12,
    "dim": 6,
    "frame_rate_hz": 49.0,
    "sample_rate_hz": 8_000,
    "normalization": "none",
    "library": "transformers 5.16.0",
    "options": {"last": "hidden_states"},
    "time_pool": 2,
    "dtype": "bfloat16",
    "window_seconds": 20.0,
    "overlap_seconds": 1.0,
}


def test_every_field_has_a_counterexample():
    assert set(OTHER) == {field.name for field in fields(FeatureSpec)}


@pytest.mark.parametrize("name", OTHER)
def test_every_field_changes_the_fingerprint_and_the_folder(spec, name):
    other = replace(spec, **{name: OTHER[name]})
    assert other.fingerprint != spec.fingerprint
    assert other.folder_name != spec.folder_name


def test_a_spec_survives_json(spec):
    again = FeatureSpec.from_provenance(json.loads(json.dumps(spec.provenance())))
    assert again == spec
    assert again.fingerprint == spec.fingerprint
