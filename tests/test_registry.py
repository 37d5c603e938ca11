import subprocess
import sys

import pytest

from sercache.errors import RecipeError
from sercache.registry import Registry
from support.processes import environment


def test_an_unknown_name_is_the_registrys_own_error_and_names_the_nearest():
    registry = Registry("head", {"deepser": "json:dumps"}, RecipeError)
    with pytest.raises(RecipeError, match=r"unknown head 'deepsr' \(known: deepser\).*'deepser'"):
        registry["deepsr"]


def test_a_module_is_imported_only_when_its_name_is_asked_for():
    code = (
        "import sys; from sercache.registry import Registry; r = Registry('x', {'a': 'colorsys:rgb_to_hsv'});"
        "assert 'a' in r and list(r) == ['a'] and 'colorsys' not in sys.modules; r['a'];"
        "assert 'colorsys' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_package_adds_a_name_through_an_entry_point(tmp_path):
    metadata = tmp_path / "plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[sercache.heads]\nlstm = colorsys:rgb_to_hsv\n")
    code = (
        "from sercache.heads.registry import HEADS;"
        "assert 'lstm' in HEADS and HEADS['lstm'].__name__ == 'rgb_to_hsv'; assert 'deepser' in list(HEADS)"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), check=True)
