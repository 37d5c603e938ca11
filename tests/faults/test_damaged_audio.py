"""Two hundred recordings with every defect we know: each bad one is one row, each good one has frames."""

import os
import socket
import struct

import numpy as np
import pytest
import soundfile

from sercache.cache.store import Cache
from support.fault_commands import (
    ENDLESS,
    RATE_HZ,
    assert_one_line,
    contents,
    extract,
    failures,
    run,
    wav_header,
    without_rights,
    write_clip,
    write_manifest,
)

GOOD, BAD, EITHER = "good", "bad", "either"
"""What must become of a recording; a flipped bit of an mp3 may be heard or not, but never hangs."""

VARIANTS = 4


def speech(random, *, seconds=0.6, rate_hz=RATE_HZ, channels=1):
    """Return ``(S, channels)`` noise that swells."""
    swell = np.sin(np.linspace(0, 9, round(seconds * rate_hz)))[:, None]
    return np.clip(random.normal(size=(len(swell), channels)) * swell / 5, -1, 1)


def encoded(path, random, **options):
    """Write an intact recording and return its bytes."""
    soundfile.write(path, speech(random), RATE_HZ, **options)
    return bytearray(path.read_bytes())


def ogg_page(payload):
    """Return one Ogg page with a codec header that no decoder of ours knows."""
    page = bytearray(
        b"OggS\0\2" + bytes(8) + struct.pack("<III", 7, 0, 0) + bytes([1, len(payload)]) + payload
    )
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", checksum)
    return bytes(page)


def flip_bits(content, random, first, last, count):
    for position in random.integers(first, last, count):
        content[position] ^= 1 << int(random.integers(8))
    return content


def written(**options):
    """Return a maker of intact recordings in a format."""

    def make(path, random):
        rate_hz, channels = options.get("rate_hz", RATE_HZ), options.get("channels", 1)
        samples = speech(random, rate_hz=rate_hz, channels=channels)
        soundfile.write(path, samples, rate_hz, subtype=options.get("subtype"))

    return make


def cut(first, last):
    """Return a maker of recordings that end after a share between ``first`` and ``last`` of their bytes."""

    def make(path, random):
        content = encoded(path, random)
        path.write_bytes(content[: int(len(content) * random.uniform(first, last))])

    return make


def flipped(first, last, count):
    """Return a maker of recordings with flipped bits; negative positions count from the end."""

    def make(path, random):
        content = encoded(path, random)
        path.write_bytes(flip_bits(content, random, first, last % len(content), count))

    return make


def holding(content_of):
    def make(path, random):
        path.write_bytes(content_of(random))

    return make


def samples(samples_of, subtype="FLOAT"):
    def make(path, random):
        soundfile.write(path, samples_of(random), RATE_HZ, subtype=subtype)

    return make


def spoiled(value):
    """Return a maker of samples one of which is ``value``."""

    def make(random):
        clip = speech(random)
        clip[int(random.integers(len(clip)))] = value
        return clip

    return make


def linked(target):
    def make(path, random):
        path.symlink_to(target or path.name)

    return make


def bound_socket(path, random):
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/{path.name}")  # a socket's path may have 108 bytes only
    finally:
        os.close(here)


def without_permission(path, random):
    encoded(path, random)
    path.chmod(0)


NOISE = holding(lambda random: random.bytes(9_000))
KINDS = [
    ("pcm16.wav", GOOD, written()),
    ("pcm8.wav", GOOD, written(subtype="PCM_U8")),
    ("pcm24.wav", GOOD, written(subtype="PCM_24")),
    ("double.wav", GOOD, written(subtype="DOUBLE")),
    ("mu-law.wav", GOOD, written(subtype="ULAW")),
    ("adpcm.wav", GOOD, written(subtype="IMA_ADPCM")),
    ("96-khz.wav", GOOD, written(rate_hz=96_000, subtype="PCM_24")),
    ("8-khz.wav", GOOD, written(rate_hz=8_000)),
    ("eight-channels.wav", GOOD, written(channels=8)),
    ("intact.flac", GOOD, written()),
    ("intact.mp3", GOOD, written()),
    ("intact.ogg", GOOD, written()),
    ("opus.ogg", GOOD, written(subtype="OPUS", rate_hz=48_000)),
    ("intact.aiff", GOOD, written()),
    ('"quoted", with\nnew line ü 语音 \N{PILE OF POO}.wav', GOOD, written()),
    ("shortest.wav", GOOD, samples(lambda random: speech(random, seconds=0.1))),
    ("endless.wav", GOOD, holding(lambda random: wav_header(data_bytes=ENDLESS) + random.bytes(9_000))),
    ("flipped-samples.wav", GOOD, flipped(44, -1, 20)),
    ("loud.wav", EITHER, samples(lambda random: speech(random) * 1e30)),
    ("flipped-header.wav", EITHER, flipped(0, 44, 1)),
    ("flipped.flac", EITHER, flipped(0, -1, 3)),
    ("flipped.mp3", EITHER, flipped(0, -1, 30)),
    ("flipped.ogg", EITHER, flipped(0, -1, 5)),
    ("cut.mp3", EITHER, cut(0.2, 0.9)),
    ("noise.mp3", EITHER, NOISE),
    ("cut.wav", BAD, cut(0.01, 0.95)),
    ("cut.flac", BAD, cut(0.01, 0.95)),
    ("cut.ogg", BAD, cut(0.01, 0.95)),
    ("noise.wav", BAD, NOISE),
    ("noise.flac", BAD, NOISE),
    ("noise.ogg", BAD, NOISE),
    ("noise.raw", BAD, NOISE),
    ("empty.wav", BAD, holding(lambda random: b"")),
    ("header-only.wav", BAD, holding(lambda random: wav_header(data_bytes=0))),
    ("promise-only.wav", BAD, holding(lambda random: wav_header(data_bytes=32_000))),
    ("no-channels.wav", BAD, holding(lambda random: wav_header(data_bytes=9_000, channels=0) + bytes(9_000))),
    ("no-rate.wav", BAD, holding(lambda random: wav_header(data_bytes=9_000, rate_hz=0) + bytes(9_000))),
    ("unknown-codec.wav", BAD, holding(lambda random: wav_header(data_bytes=9_000, codec=77) + bytes(9_000))),
    ("other-codec.ogg", BAD, holding(lambda random: ogg_page(b"\x80theora\3\2\1" + random.bytes(32)))),
    ("text.wav", BAD, holding(lambda random: b"these are notes, nothing to hear\n" * 9)),
    ("nan.wav", BAD, samples(spoiled(np.nan))),
    ("infinite.wav", BAD, samples(spoiled(-np.inf))),
    ("silence.flac", BAD, samples(lambda random: np.zeros(RATE_HZ), "PCM_16")),
    ("one-sample.wav", BAD, samples(lambda random: np.ones(1) / 2)),
    ("directory.wav", BAD, lambda path, random: path.mkdir()),
    ("fifo.wav", BAD, lambda path, random: os.mkfifo(path)),
    ("socket.wav", BAD, bound_socket),
    ("dangling.wav", BAD, linked("nowhere.wav")),
    ("loop.wav", BAD, linked(None)),
    ("device.wav", BAD, linked("/dev/zero")),
]


def make_all(folder, kinds):
    """Write every kind of recording; returns their names, and what must become of each."""
    random = np.random.default_rng(200)
    wanted = {}
    for variant in range(VARIANTS):
        for name, outcome, make in kinds:
            make(folder / f"{variant}-{name}", random)
            wanted[f"{variant}-{name}"] = outcome
    return wanted


def ids(name):
    return " ".join(name.split())


def has_frames(cache):
    (feature_set,) = Cache(cache).feature_sets()
    for utterance_id in feature_set.ids:
        assert len(feature_set.frames(utterance_id)) > 0
        assert np.isfinite(feature_set.frames(utterance_id)).all()
    return set(feature_set.ids)


def test_two_hundred_recordings_with_every_defect(tmp_path):
    wanted = make_all(tmp_path, KINDS)
    assert len(wanted) == 200
    manifest = write_manifest(tmp_path, {ids(name): name for name in wanted})
    cache = tmp_path / "cache"
    done = extract(manifest, cache, "--max-failures", 200, task_seconds=10.0)
    assert done.code == 0, done.errors
    assert "Traceback" not in done.errors
    rows, frames = failures(cache), has_frames(cache)
    assert rows.keys() | frames == {ids(name) for name in wanted}
    assert not rows.keys() & frames
    for name, outcome in wanted.items():
        if outcome == GOOD:
            assert ids(name) in frames, rows[ids(name)]
        if outcome == BAD:
            assert ids(name) in rows
    for row in rows.values():
        assert row["stage"] in ("decode", "encode")
        assert row["exception"] in ("AudioError", "SilentAudioError", "EncoderError")
        assert row["attempts"] == "1"
        assert row["message"]
        assert "\n" not in row["message"]
        assert "Traceback" not in row["message"]
    assert f"{len(rows)} utterances have no features" in done.output
    assert run("cache", "verify", cache).code == 0


@pytest.fixture
def few(tmp_path):
    """Eight intact recordings and four bad ones, with the names of the bad ones."""
    bad = ["gone.wav", "notes.wav", "empty.wav", "nan.wav"]
    for number in range(8):
        write_clip(tmp_path / f"{number}.wav", seconds=0.5, seed=number)
    random = np.random.default_rng(0)
    (tmp_path / "notes.wav").write_text("these are notes")
    (tmp_path / "empty.wav").touch()
    samples(spoiled(np.nan))(tmp_path / "nan.wav", random)
    return write_manifest(tmp_path, {name: name for name in [*(f"{n}.wav" for n in range(8)), *bad]}), bad


def test_a_failure_is_tried_again_only_when_asked_and_forgotten_once_mended(few, tmp_path):
    manifest, bad = few
    cache = tmp_path / "cache"
    done = extract(manifest, cache)
    assert (done.code, done.errors) == (0, "")
    assert {name: row["attempts"] for name, row in failures(cache).items()} == dict.fromkeys(bad, "1")
    before = contents(cache)
    for name in bad[:2]:
        (tmp_path / name).unlink(missing_ok=True)
        write_clip(tmp_path / name, seconds=0.5, seed=9)
    assert extract(manifest, cache).code == 0
    assert contents(cache) == before, "what failed is settled"
    assert extract(manifest, cache, "--retry-failed").code == 0
    assert {name: row["attempts"] for name, row in failures(cache).items()} == dict.fromkeys(bad[2:], "2")
    assert len(has_frames(cache)) == 10
    for name in bad[2:]:
        write_clip(tmp_path / name, seconds=0.5, seed=9)
    done = extract(manifest, cache, "--retry-failed")
    assert (done.code, done.errors) == (0, "")
    assert "no features" not in done.output
    assert failures(cache) == {}
    assert len(has_frames(cache)) == 12


def test_more_failures_than_allowed_end_the_run(few, tmp_path):
    manifest, bad = few
    cache = tmp_path / "cache"
    done = extract(manifest, cache, "--max-failures", 3)
    assert_one_line(done, 2, "4 of 12 utterances failed, at most 3 may (--max-failures)", "failures.csv")
    assert failures(cache).keys() == set(bad)
    assert run("cache", "verify", cache).code == 0
    assert_one_line(extract(manifest, cache, "--max-failures", 3), 2, "at most 3 may")
    done = extract(manifest, cache, "--max-failures", 4)
    assert (done.code, done.errors) == (0, "")
    assert len(has_frames(cache)) == 8


def test_a_recording_without_read_permission_is_a_row(tmp_path):
    through = without_rights()
    write_clip(tmp_path / "open.wav", seconds=0.5, seed=0)
    write_clip(tmp_path / "closed.wav", seconds=0.5, seed=1)
    (tmp_path / "closed.wav").chmod(0)
    manifest = write_manifest(tmp_path, {"open": "open.wav", "closed": "closed.wav"})
    assert extract(manifest, tmp_path / "cache", through=through).code == 0
    (row,) = failures(tmp_path / "cache").values()
    assert row["utterance"] == "closed"
    assert "cannot be read (Permission denied)" in row["message"]


def test_a_header_with_an_absurd_rate_does_not_take_all_memory(tmp_path):
    """Twenty seconds of speech, read at one sample a second, would be 10 GB at the encoder's rate."""
    write_clip(tmp_path / "intact.wav", seconds=0.5, seed=0)
    noise = np.random.default_rng(0).bytes(20 * 2 * RATE_HZ)
    (tmp_path / "slow.wav").write_bytes(wav_header(data_bytes=len(noise), rate_hz=1) + noise)
    manifest = write_manifest(tmp_path, {"intact": "intact.wav", "slow": "slow.wav"})
    few_gigabytes = ("sh", "-c", 'ulimit -v 4000000 && exec "$@"', "sh")
    assert extract(manifest, tmp_path / "cache", through=few_gigabytes).code == 0
    (row,) = failures(tmp_path / "cache").values()
    assert (row["utterance"], row["exception"]) == ("slow", "AudioError")
    assert "slow.wav" in row["message"]
