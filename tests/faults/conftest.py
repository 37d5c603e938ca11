"""Lets tests import ``fault_commands``; the corpus, and what an undisturbed run makes of it."""

import subprocess

import pytest

from support.fault_commands import contents, end_all, extract, write_clip, write_manifest

CLIPS = 24


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A manifest of clips of 1 s, one task each; the last one is not audio. Tests do not change it."""
    folder = tmp_path_factory.mktemp("corpus")
    names = [f"clip-{number:03d}" for number in range(CLIPS)]
    for number, name in enumerate(names):
        write_clip(folder / f"{name}.wav", seconds=1.0, seed=number)
    (folder / "notes.wav").write_text("these are notes")
    return write_manifest(folder, {name: f"{name}.wav" for name in [*names, "notes"]})


@pytest.fixture(scope="session")
def whole_cache(corpus, tmp_path_factory):
    """A cache that an undisturbed run made. Tests do not change it."""
    cache = tmp_path_factory.mktemp("whole") / "cache"
    done = extract(corpus, cache)
    assert (done.code, done.errors) == (0, "")
    return cache


@pytest.fixture(scope="session")
def whole(whole_cache):
    """What an undisturbed run leaves in a cache."""
    found = contents(whole_cache)
    assert sum(name.endswith(".h5") for name in found) == CLIPS
    return found


@pytest.fixture(autouse=True)
def _no_command_is_left_running():
    yield
    end_all()


@pytest.fixture
def mount(tmp_path):
    """Mount a file system of its own on a new folder; the test skips where that is not permitted."""
    mounted = []

    def mounted_at(name, *arguments):
        folder = tmp_path / name
        folder.mkdir()
        command = ["mount", *map(str, arguments), str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mounted_at
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
