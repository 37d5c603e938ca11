"""Open a cache: frames as numpy arrays and as torch tensors, one by one and in batches.

python open_cache.py CACHE
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sercache.cache.frames import from_storage
from sercache.cache.store import Cache
from sercache.training.batches import FrameSource


def main(cache: Path) -> None:
    for feature_set in Cache(cache).feature_sets():
        ids, layer = feature_set.ids, feature_set.layers[0]

        # numpy: a view of the file, nothing is copied; bfloat16 comes as uint16
        stored = feature_set.frames(ids[0], layer)
        frames = from_storage(stored, feature_set.spec.dtype)  # (T, D) float32
        print(feature_set.folder.name, layer, frames.shape, stored.dtype)

        # torch: a copy, as the file is read-only
        tensor = torch.from_numpy(np.array(stored))
        if feature_set.is_bfloat16:
            tensor = tensor.view(torch.bfloat16)
        print("  tensor", tuple(tensor.shape), tensor.dtype)

        # all utterances, in order, read ahead of you
        locations = feature_set.locate(list(ids))
        total = sum(len(frames) for frames in feature_set.stream(locations, layer))
        print(f"  {len(ids)} utterances, {total} frames")

        # padded batches with their masks, checked against the checksums
        source = FrameSource([feature_set], list(ids), torch.device("cpu"))
        (batch,) = source.batch(np.arange(min(4, len(ids))))
        print("  batch", tuple(batch.frames.shape), "valid:", batch.mask.sum(dim=1).tolist())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
