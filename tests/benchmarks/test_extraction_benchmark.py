"""The benchmark of the extraction measures what it says; how fast that is here is not asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sercache.benchmarks.extraction import benchmark_extraction, profile_extraction
from sercache.errors import EncoderError

Maker = Callable[[str], Path]


@pytest.mark.parametrize("kind", ["wavlm", "hubert+layer", "whisper", "roberta"])
def test_every_figure_is_there_and_the_errors_are_small(checkpoint: Maker, kind: str) -> None:
    found = benchmark_extraction(str(checkpoint(kind)), device="cpu", clips=8, mean_seconds=1.5, rounds=2)
    assert (found.encoder, found.device, found.precision, found.clips) == (kind, "cpu", "float32", 8)
    assert 0 < found.share_of_bare < 2
    assert found.times_plain > 0
    assert found.batch_error < 1e-4
    assert found.precision_error < 1e-4
    assert found.flops > 1e6
    assert 0 < found.utilisation < 1


def test_forced_bfloat16_shows_its_error(checkpoint: Maker) -> None:
    found = benchmark_extraction(
        str(checkpoint("hubert")), device="cpu", precision="bfloat16", clips=8, mean_seconds=1.0, rounds=1
    )
    assert found.precision == "bfloat16"
    assert 1e-4 < found.precision_error < 3e-2


def test_embedded_encoders_have_no_network_to_measure() -> None:
    with pytest.raises(EncoderError, match="has no network"):
        benchmark_extraction("logmel", clips=8)


def test_a_profile_names_the_operations(checkpoint: Maker) -> None:
    assert "aten::addmm" in profile_extraction(str(checkpoint("wavlm")), device="cpu", rows=20)
