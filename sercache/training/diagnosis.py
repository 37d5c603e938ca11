"""Why a loss or a prediction is not finite: is it the data?"""

import numpy as np

from sercache.cache.frames import from_storage
from sercache.training.batches import FrameSource
from sercache.training.rows import LabelledRows


def why_not_finite(source: FrameSource, rows: LabelledRows) -> str:
    """Return which utterance has a frame or a target that is no finite number, or nothing."""
    infinite = np.isinf(rows.attributes).any(axis=1) | np.isinf(rows.soft).any(axis=1)
    if infinite.any():
        return f"utterance '{rows.ids[int(infinite.argmax())]}' has an infinite target"
    return frames_not_finite(source)


def frames_not_finite(source: FrameSource) -> str:
    """Return which utterance has a frame that is no finite number, or nothing."""
    for feature_set in source.feature_sets:
        dtype = feature_set.spec.dtype or "float32"
        locations = feature_set.locate(source.ids)
        for layer in feature_set.layers:
            for utterance_id, frames in zip(source.ids, feature_set.stream(locations, layer), strict=True):
                if not np.isfinite(from_storage(frames, dtype)).all():
                    return (
                        f"utterance '{utterance_id}' has frames in {feature_set.folder.name} that are not "
                        "finite numbers: extract it again, or take it out of the corpus"
                    )
    return ""
