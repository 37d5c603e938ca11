"""Decoding: real damaged files, each with its one clear line; and a resampler that keeps a sine a sine."""

import os
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache.audio import MINIMUM_SECONDS, audio_seconds, load_audio
from sercache.errors import AudioError


def sine(hz: float, seconds: float, rate_hz: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def written(path: Path, samples: np.ndarray, rate_hz: int = 16_000, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def assert_one_line(path: Path, expected: str, **segment: float) -> None:
    with pytest.raises(AudioError, match=expected) as caught:
        load_audio(path, 16_000, **segment)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message


@settings(max_examples=20, deadline=None)
@given(
    rate_hz=st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 96_000]),
    channels=st.sampled_from([1, 2, 8]),
    hz=st.floats(100, 3_000),
)
def test_sine_stays_a_sine_of_the_same_frequency(
    tmp_path_factory: pytest.TempPathFactory, rate_hz: int, channels: int, hz: float
) -> None:
    path = tmp_path_factory.mktemp("sine") / "sine.wav"
    written(path, np.tile(sine(hz, 0.5, rate_hz)[:, None], channels), rate_hz, "FLOAT")
    waveform = load_audio(path, 16_000)
    assert waveform.dtype == np.float32
    assert waveform.flags.c_contiguous
    assert abs(len(waveform) - 8_000) <= 1
    middle = slice(1_000, 7_000)
    np.testing.assert_allclose(waveform[middle], sine(hz, 0.5, 16_000)[middle], atol=2e-3)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = sine(200, 0.5, 16_000), sine(300, 0.5, 16_000)
    path = written(tmp_path / "stereo.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path, 16_000), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_U8"), ("wav", "PCM_24"), ("flac", "PCM_16")])
def test_sample_widths(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = written(tmp_path / f"clip.{suffix}", sine(200, 0.5, 16_000), subtype=subtype)
    np.testing.assert_allclose(load_audio(path, 16_000), sine(200, 0.5, 16_000), atol=0.01)


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", None), ("flac", None), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", None)],
)
def test_segment_is_the_same_stretch_of_the_whole(tmp_path: Path, suffix: str, subtype: str | None) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    path = written(tmp_path / f"clip.{suffix}", noise, subtype=subtype)
    whole = load_audio(path, 16_000)
    np.testing.assert_array_equal(load_audio(path, 16_000, 0.25, 1.5), whole[4_000:24_000])
    np.testing.assert_array_equal(load_audio(path, 16_000, start_seconds=1.5), whole[24_000:])
    np.testing.assert_array_equal(load_audio(path, 16_000, end_seconds=2.05), whole)


def test_seconds_come_from_the_header(tmp_path: Path) -> None:
    path = written(tmp_path / "clip.flac", sine(200, 1.25, 44_100), 44_100)
    assert audio_seconds(path) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"This is a letter, not a recording.\n" * 100, "not audio"),
        (b"", "empty file"),
        (b"RIFF", "not audio"),
        (b"OggS", "truncated"),
        (os.urandom(5_000), "not audio"),
    ],
)
@pytest.mark.parametrize("name", ["clip.wav", "clip.raw", "clip.ogg"])
def test_file_that_is_not_audio(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert_one_line(path, expected)
    with pytest.raises(AudioError, match=expected):
        audio_seconds(path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    assert_one_line(tmp_path / "absent.wav", "no such file")
    assert_one_line(tmp_path, "a directory")
    os.mkfifo(tmp_path / "pipe.wav")
    assert_one_line(tmp_path / "pipe.wav", "not a regular file")
    assert_one_line(Path("/dev/zero"), "not a regular file")


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", None), ("flac", None), ("ogg", "VORBIS"), ("ogg", "OPUS")]
)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_truncated_recording(tmp_path: Path, suffix: str, subtype: str | None, share: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
    path = written(tmp_path / f"clip.{suffix}", noise, subtype=subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_one_line(path, "truncated|damaged|not audio")


def test_wav_from_a_pipe_has_no_size_and_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "clip.wav", sine(200, 0.5, 16_000))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert len(load_audio(path, 16_000)) == 8_000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    samples = sine(200, 0.5, 16_000)
    samples[77] = bad
    assert_one_line(written(tmp_path / "clip.wav", samples, subtype="FLOAT"), "not finite")


def test_silence_and_shortness(tmp_path: Path) -> None:
    assert_one_line(written(tmp_path / "silent.wav", np.zeros(8_000)), "silent")
    assert_one_line(written(tmp_path / "short.wav", sine(200, 0.05, 16_000)), "too short")
    assert_one_line(written(tmp_path / "header.wav", np.zeros(0)), "too short")
    enough = written(tmp_path / "enough.wav", sine(200, MINIMUM_SECONDS, 16_000))
    assert len(load_audio(enough, 16_000)) == 1_600


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (-0.5, 1.0, "not times"),
        (float("nan"), 1.0, "not times"),
        (0.0, float("inf"), "not times"),
        (1.5, 1.0, "not after its start"),
        (1.0, 1.0, "not after its start"),
        (5.0, 6.0, "not in the recording"),
        (1.0, 2.5, "not in the recording"),
        (1.0, 1.05, "too short"),
    ],
)
def test_segment_that_is_not_there(tmp_path: Path, start: float, end: float, expected: str) -> None:
    path = written(tmp_path / "clip.wav", sine(200, 2.0, 16_000))
    assert_one_line(path, expected, start_seconds=start, end_seconds=end)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_file_decodes_or_is_one_audio_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    suffix = data.draw(st.sampled_from(["wav", "flac", "ogg"]))
    path = written(folder / f"clip.{suffix}", np.random.default_rng(0).uniform(-0.5, 0.5, 4_000))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(AudioError):
        assert np.isfinite(load_audio(path, 16_000)).all()
