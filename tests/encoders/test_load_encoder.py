"""Finding an encoder: fingerprints that ignore paths, and one clear line for what cannot be loaded."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sercache.encoders.registry import ENCODERS, load_encoder
from sercache.errors import EncoderError

Maker = Callable[[str], Path]


def assert_refused(name: str, expected: str, **options: str) -> None:
    with pytest.raises(EncoderError, match=expected) as caught:
        load_encoder(name, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture
def copied(checkpoint: Maker, tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(checkpoint(kind), tmp_path / "somewhere" / kind))


def changed_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", list(ENCODERS))
def test_embedded_encoder(name: str) -> None:
    assert load_encoder(name).spec.encoder == name
    assert load_encoder(name, "all").spec == load_encoder(name).spec
    assert_refused(name, "layers 0 to 0", layers="last4")


def test_fingerprint_ignores_the_path_and_follows_the_weights(
    checkpoint: Maker, copied: Callable[[str], Path]
) -> None:
    folder = copied("wavlm")
    original = load_encoder(str(checkpoint("wavlm"))).spec
    assert load_encoder(str(folder)).spec == original
    (folder / "notes.md").write_text("mine")
    assert load_encoder(str(folder)).spec == original
    preprocessor = folder / "preprocessor_config.json"
    preprocessor.write_text(preprocessor.read_text() + "\n")
    assert load_encoder(str(folder)).spec.revision != original.revision


def test_layers_come_from_the_config_not_from_files(copied: Callable[[str], Path]) -> None:
    folder = copied("wavlm")
    for number in range(30):
        (folder / f"extra-{number}.npy").write_bytes(b"")
    assert load_encoder(str(folder), "last2").spec.layers == ("sum-2-3",)
    assert_refused(str(folder), "layers '12': .*layers 0 to 3", layers="12")


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    assert_refused(str(tmp_path), "not a checkpoint .no config.json|has no config.json")
    assert_refused(str(tmp_path / "absent"), "does not exist")
    (tmp_path / "file.bin").write_bytes(b"x")
    assert_refused(str(tmp_path / "file.bin"), "is not a folder")
    assert_refused("nobody/no-such-model", "no such model can be reached")
    assert_refused("logmell", "Did you mean 'logmel'")
    assert_refused("a name with spaces!", "no such model can be reached")


def test_configs_that_are_not_understood(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{broken")
    assert_refused(str(tmp_path), "config.json cannot be read")
    config.write_text("{}")
    assert_refused(str(tmp_path), "unknown model type 'None'")
    config.write_text('{"model_type": "brand-new"}')
    assert_refused(str(tmp_path), "unknown model type 'brand-new'")
    config.write_text('{"model_type": "brand-new", "auto_map": {"AutoModel": "modeling.New"}}')
    assert_refused(str(tmp_path), "trust_remote_code")
    config.write_text('{"model_type": "wavlm"}')
    assert_refused(str(tmp_path), "no usable Model")


def test_weights_that_are_damaged_or_incomplete(copied: Callable[[str], Path]) -> None:
    folder = copied("wavlm")
    changed_config(folder, num_hidden_layers=5)
    assert_refused(str(folder), "lack .* tensors, such as 'encoder.layers.3")
    folder = copied("hubert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    assert_refused(str(folder), "no usable Model")


def test_checkpoint_without_its_preprocessor_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("wav2vec2")
    (folder / "preprocessor_config.json").unlink()
    assert_refused(str(folder), "no usable FeatureExtractor")


def test_models_that_are_no_encoders(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model, ViTConfig, ViTModel

    small = {"num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8}
    ViTModel(ViTConfig(**small, image_size=32)).save_pretrained(tmp_path / "vit")
    T5Model(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)).save_pretrained(
        tmp_path / "t5"
    )
    assert_refused(str(tmp_path / "vit"), "a vit model is not an encoder of speech or text")
    assert_refused(str(tmp_path / "t5"), "a t5 model is not an encoder of speech or text")


def test_device_that_is_not_there(checkpoint: Maker) -> None:
    assert_refused(str(checkpoint("wavlm")), "cannot be put on device 'gpu7'", device="gpu7")


def test_hub_name_takes_its_commit_as_revision(
    checkpoint: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub cache as a download leaves it; the name, not the path, is in the spec."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--acme--tiny-wavlm"
    shutil.copytree(checkpoint("wavlm"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = load_encoder("acme/tiny-wavlm").spec
    assert (spec.encoder, spec.revision) == ("acme/tiny-wavlm", commit)


def test_loading_is_silent_and_restores_the_settings(
    checkpoint: Maker, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    whisper, roberta = str(checkpoint("whisper")), str(checkpoint("roberta"))
    capfd.readouterr()
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_encoder(whisper).encode([torch.ones(3_200).numpy()])
    load_encoder(roberta).encode(["yes " * 100])
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_importing_the_registry_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import sercache.encoders.registry, sercache.encoders.windows, sercache.audio;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
