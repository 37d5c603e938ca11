"""The rival of the training benchmark computes what our head computes."""

import numpy as np
import torch

from sercache.benchmarks.plain_training import NpyFiles, PlainDeepSER, plain_batches
from sercache.benchmarks.synthetic import synthetic_feature_set
from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head

NAMES = {
    "self_attn.in_proj_": "project_in.",
    "self_attn.out_proj.": "project_out.",
    "linear1.": "widen.",
    "linear2.": "narrow.",
    "norm1.": "attention_norm.",
    "norm2.": "feedforward_norm.",
}
PARTS = ("project", "first", "second")


def our_name(theirs):
    """legs.0.1.linear1.weight -> legs.0.first.widen.weight"""
    words = theirs.split(".")
    where = 2 if words[0] == "legs" else 1 if words[0].endswith("fusion") else None
    if where is not None:
        words[where] = PARTS[int(words[where])]
    name = ".".join(words)
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def test_the_plain_head_is_deepser():
    ours = build_head(
        "deepser", [5, 3], 4, [(1, 7)], {"width": 8, "feedforward": 6, "dropout": 0.0}, 0
    ).eval()
    plain = PlainDeepSER([5, 3], 4, 1, 8, 6).eval()
    state = {our_name(name): value for name, value in plain.state_dict().items()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(("input_", "attribute_low", "attribute_high")) for name in missing)
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    inputs = [HeadInput(torch.randn(2, 6, dim), mask) for dim in (5, 3)]
    with torch.no_grad():
        (logits, attributes), wanted = plain(inputs), ours(inputs)
    torch.testing.assert_close(logits, wanted.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attributes, wanted.attributes, atol=1e-5, rtol=1e-5)


def test_the_plain_loader_gives_every_utterance_once_padded_to_the_longest(tmp_path):
    feature_set = synthetic_feature_set(tmp_path / "cache", 21, 6, 4)
    (tmp_path / "npy").mkdir()
    files = NpyFiles(tmp_path / "npy", [feature_set], feature_set.ids)
    seen = []
    for rows, (features,) in plain_batches(files, 8, 0, 0):
        assert features.frames.shape[1] == features.mask.sum(dim=1).max()
        for place, row in enumerate(rows.tolist()):
            stored = feature_set.frames(feature_set.ids[row])
            np.testing.assert_array_equal(features.frames[place, features.mask[place]].numpy(), stored)
        seen += rows.tolist()
    assert sorted(seen) == list(range(21))
