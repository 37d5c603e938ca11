"""A bundle with a flipped bit, a missing file, another format or a foreign path is refused with one line."""

import json
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sercache import Bundle
from sercache.bundle.description import description_digest, read_description
from sercache.errors import BundleError


@pytest.fixture
def copied(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "copied")


def edited(folder, **changes):
    """Change the description as somebody would who mends its digest, too."""
    path = folder / "bundle.json"
    content = json.loads(path.read_text()) | changes
    content.pop("sha256")
    path.write_text(json.dumps(content | {"sha256": description_digest(content)}))


def test_every_file_but_the_card_is_covered(bundle_folder):
    there = {
        path.relative_to(bundle_folder).as_posix() for path in bundle_folder.rglob("*") if path.is_file()
    }
    assert there - set(read_description(bundle_folder).files) == {"bundle.json", "README.md"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_refused(bundle_folder, data):
    names = [*read_description(bundle_folder).files, "bundle.json"]
    path = bundle_folder / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    try:
        with pytest.raises(BundleError) as refused:
            read_description(bundle_folder)
    finally:
        path.write_bytes(whole)
    assert path.name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["heads/deep/fold-1.safetensors", "stacker/stacker.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: cannot be read \(No such file"):
        Bundle.load(copied)


def test_so_is_a_missing_calibration(finished, tmp_path):
    """The recommended stacker is the one that has one."""
    folder = finished.bundle(tmp_path / "recommended").folder
    (folder / "calibration.json").unlink()
    with pytest.raises(BundleError, match=r"calibration\.json: cannot be read \(No such file"):
        Bundle.load(folder)


def test_a_newer_format_says_so(copied):
    edited(copied, format_version=2)
    with pytest.raises(BundleError, match="format 2, this version reads format 1; a newer sercache reads it"):
        Bundle.load(copied)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "heads/../../outside", "..\\outside", ""])
def test_a_path_out_of_the_bundle_is_refused_unread(copied, name):
    edited(copied, files={name: {"size_bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="names what is not a file of the bundle"):
        Bundle.load(copied)


@pytest.mark.parametrize("part", ["model", "folder"])
def test_so_is_a_part_that_has_no_digest(copied, part):
    content = json.loads((copied / "bundle.json").read_text())
    if part == "model":
        content["members"][0]["models"][0] = "../elsewhere.safetensors"
    else:
        content["features"]["deep"]["folder"] = str(copied.parent)
    edited(copied, members=content["members"], features=content["features"])
    with pytest.raises(BundleError, match="names what is not a file of the bundle"):
        Bundle.load(copied)


def test_a_file_that_nobody_listed_is_refused(copied):
    """transformers would lay an adapter over the weights without a word."""
    (copied / ".gitattributes").write_text("* text=auto")
    read_description(copied)
    encoder = next((copied / "encoders").iterdir())
    (encoder / "adapter_config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"adapter_config\.json: is no part of the bundle"):
        Bundle.load(copied)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": "x"}'])
def test_what_is_no_description_is_one_line(copied, content):
    (copied / "bundle.json").write_text(content)
    with pytest.raises(BundleError, match=r"bundle\.json") as refused:
        Bundle.load(copied)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.load(tmp_path)


def test_a_head_of_another_order_of_classes_is_refused(copied, finished):
    description = read_description(copied)
    edited(copied, classes=list(reversed(description.classes)))
    with pytest.raises(BundleError, match="has the classes"):
        Bundle.load(copied, device="cpu")


def test_importing_the_package_loads_no_torch():
    code = "import sys, sercache; assert 'torch' not in sys.modules; assert 'Bundle' in sercache.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)
