"""What a head says of many utterances."""

import numpy as np
import torch

from sercache.heads.protocol import Head, HeadOutput
from sercache.training.batches import FrameSource


@torch.no_grad()
def predict(head: Head, source: FrameSource, batch_size: int) -> HeadOutput:
    """Return logits ``(N, C)`` and attributes ``(N, A)`` of all utterances of ``source``, on the CPU."""
    head.eval()
    if not source.ids:
        num_attributes = len(head.get_buffer("attribute_low"))
        return HeadOutput(torch.empty(0, head.num_classes), torch.empty(0, num_attributes))
    order = np.argsort(source.lengths, kind="stable")
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    outputs = [head(inputs) for inputs in source.batches(batches)]
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return HeadOutput(
        torch.cat([output.logits for output in outputs]).float().cpu()[back],
        torch.cat([output.attributes for output in outputs]).float().cpu()[back],
    )
