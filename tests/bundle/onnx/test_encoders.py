from dataclasses import replace

import numpy as np
import pytest

from sercache.bundle.onnx.encoders import export_encoder
from sercache.bundle.onnx.graph import read_metadata
from sercache.encoders.registry import load_encoder
from sercache.errors import ExportError
from sercache.extract.encode import pool_over_time
from sercache.recipe import FeatureRecipe

onnxruntime = pytest.importorskip("onnxruntime")


def feature_set(folder, layers="last", time_pool=1):
    recipe = FeatureRecipe(encoder=str(folder), layers=layers, time_pool=time_pool)
    encoder = load_encoder(str(folder), layers)
    return recipe, encoder, replace(encoder.spec, time_pool=time_pool, dtype="float32")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "layers", "time_pool"),
    [
        ("wavlm", "last2", 3),
        slow("wavlm+layer", "last", 1),
        slow("hubert", "last", 1),
        slow("hubert+layer", "last2", 2),
        slow("wav2vec2", "all", 1),
        slow("wav2vec2+layer", "last", 1),
        slow("data2vec-audio", "last", 1),
    ],
)
def test_a_speech_encoder_gives_the_frames_of_the_library(tmp_path, checkpoint, kind, layers, time_pool):
    recipe, encoder, spec = feature_set(checkpoint(kind), layers, time_pool)
    path = tmp_path / "encoder.onnx"
    assert export_encoder(recipe, spec, path) <= 1e-3
    waveform = np.random.default_rng(3).normal(0, 0.2, 19_000).astype(np.float32)
    session = onnxruntime.InferenceSession(path)
    frames, mask = session.run(["frames", "mask"], {"input_values": waveform[None]})
    planes = pool_over_time(encoder.encode([waveform])[0], time_pool)
    wanted = planes[0] if len(planes) == 1 else planes.transpose(1, 0, 2)
    np.testing.assert_allclose(frames[mask], wanted, atol=1e-3)
    assert read_metadata(path)["fingerprint"] == spec.fingerprint


@pytest.mark.parametrize("time_pool", [4, slow(1)])
def test_whispers_frames_behind_the_clips_end_are_masked(tmp_path, checkpoint, time_pool):
    recipe, encoder, spec = feature_set(checkpoint("whisper"), "last", time_pool)
    path = tmp_path / "encoder.onnx"
    export_encoder(recipe, spec, path)
    waveform = np.random.default_rng(3).normal(0, 0.2, 12_345).astype(np.float32)
    features, samples = encoder.prepare(waveform)
    inputs = {"input_features": features[None].numpy(), "samples": np.array([samples])}
    frames, mask = onnxruntime.InferenceSession(path).run(["frames", "mask"], inputs)
    wanted = pool_over_time(encoder.encode([waveform])[0], time_pool)[0]
    np.testing.assert_allclose(frames[mask], wanted, atol=1e-3)


@pytest.mark.parametrize("kind", ["roberta", slow("bert"), slow("modernbert"), slow("deberta-v2")])
def test_a_text_encoder_masks_its_special_tokens(tmp_path, checkpoint, kind):
    recipe, encoder, spec = feature_set(checkpoint(kind))
    path = tmp_path / "encoder.onnx"
    export_encoder(recipe, spec, path)
    (piece,) = encoder.prepare("i am so happy now and then")
    inputs = {name: tensor[None].numpy() for name, tensor in piece.inputs.items()}
    inputs["special_tokens_mask"] = (~piece.is_word).long()[None].numpy()
    session = onnxruntime.InferenceSession(path)
    known = {session_input.name for session_input in session.get_inputs()}
    frames, mask = session.run(
        ["frames", "mask"], {name: value for name, value in inputs.items() if name in known}
    )
    np.testing.assert_allclose(frames[mask], encoder.encode(["i am so happy now and then"])[0][0], atol=1e-3)


def test_what_cannot_be_exported_is_one_line(tmp_path, checkpoint):
    spec = load_encoder("logmel").spec
    with pytest.raises(ExportError, match="embedded in sercache"):
        export_encoder(FeatureRecipe(encoder="logmel"), spec, tmp_path / "encoder.onnx")
    recipe, _, spec = feature_set(checkpoint("roberta"), time_pool=2)
    with pytest.raises(ExportError, match="pools words"):
        export_encoder(recipe, spec, tmp_path / "encoder.onnx")
    with pytest.raises(ExportError, match="the features were made by 000"):
        export_encoder(recipe, replace(spec, time_pool=1, revision="0" * 32), tmp_path / "encoder.onnx")
    assert list(tmp_path.iterdir()) == []
