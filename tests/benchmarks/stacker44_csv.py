"""Write the 44 real models' predictions of CREMA-D as another system would have: a CSV each, and a manifest.

    python tests/benchmarks/stacker44_csv.py predictions.npz OUT
    sercache stack --predictions OUT/*-*.csv --labels OUT/corpus.csv --out-of-fold -o OUT/stacked

The models were trained on another corpus, so that none has learned from a speaker that it predicts here.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import write_corpus


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with np.load(arguments.predictions, allow_pickle=False) as stored:
        names = {key: stored[key].tolist() for key in ("models", "clips", "classes", "vote_order", "speaker")}
        probabilities, votes = stored["proba"].astype(np.float64), stored["voice_votes6"].astype(np.float64)
    columns = [names["vote_order"].index(name[0].upper()) for name in names["classes"]]
    rows = tuple(
        Utterance(
            id=clip,
            audio=f"{clip}.wav",
            speaker=speaker,
            votes=tuple(vote[columns].tolist()),
            other_votes=float(vote.sum() - vote[columns].sum()),
        )
        for clip, speaker, vote in zip(names["clips"], names["speaker"], votes, strict=True)
    )
    write_corpus(Corpus(tuple(names["classes"]), (), rows, arguments.out), arguments.out / "corpus.csv")
    for index, model in enumerate(names["models"]):
        with (arguments.out / f"{model.replace('/', '-')}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["FileName", *names["classes"]])
            for clip, row in zip(names["clips"], probabilities[:, index], strict=True):
                writer.writerow([f"{clip}.wav", *(f"{value:.8f}" for value in row)])


if __name__ == "__main__":
    main()
