"""Files that other systems could have written."""

import csv

import pytest


def write_csv(path, header, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.fixture(name="write_csv")
def write_csv_fixture():
    return write_csv


@pytest.fixture(name="write_plain")
def write_plain_fixture():
    """Write a member's table as another system would have: file names, classes in an order of its own."""

    def write(folder, table, corpus, kept=None):
        order = [2, 0, 3, 1]
        header = ["FileName", *(corpus.classes[index] for index in order)]
        rows = [
            [f"wavs/{utterance_id}.wav", *(f"{value:.6f}" for value in values[order])]
            for utterance_id, values in zip(table.ids, table.class_probabilities, strict=True)
            if kept is None or utterance_id in kept
        ]
        return write_csv(folder / f"{table.member}.csv", header, rows)

    return write
