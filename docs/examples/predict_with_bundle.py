"""Predict a recording with a bundle.

python predict_with_bundle.py BUNDLE RECORDING [TEXT]
"""

import sys
from pathlib import Path

from sercache import Bundle
from sercache.bundle.clips import ClipPrediction, FailedClip, Recording


def main(bundle_folder: Path, path: Path, text: str | None = None) -> ClipPrediction | FailedClip:
    bundle = Bundle.load(bundle_folder, device="cpu")
    if bundle.needs_text and text is None and not bundle.can_transcribe:
        print("some members read what is said, and no text is known")
    (answer,) = bundle.predict([Recording(path.name, path, text)])  # any number of recordings
    if isinstance(answer, FailedClip):
        print(answer.id, "failed:", answer.error)
        return answer
    print(
        answer.id,
        answer.label,
        {name: round(probability, 3) for name, probability in answer.probabilities.items()},
    )
    print("attributes", answer.attributes, "members disagree", round(answer.disagreement, 3))
    return answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
