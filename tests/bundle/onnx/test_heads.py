import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sercache.bundle.onnx import graph
from sercache.bundle.onnx.graph import read_metadata
from sercache.bundle.onnx.heads import FoldMean, export_heads
from sercache.errors import ExportError
from sercache.training.checkpoint import HeadDescription
from support.small_heads import DIMS, NAMES, batch, small

onnxruntime = pytest.importorskip("onnxruntime")

DESCRIPTION = HeadDescription(
    member="student",
    fold=0,
    head="any",
    options={},
    input_dims=list(DIMS),
    input_layers=[1, 1],
    features={"speech": "f" * 64, "words": "e" * 64},
    classes=["Angry", "Sad", "Happy"],
    attributes=[("arousal", 1.0, 7.0), ("valence", -1.0, 1.0)],
    best={},
    versions={},
)


def folds(name, layer_sum=None):
    heads = [small(name, layer_sum, seed=seed).eval() for seed in (0, 1)]
    for seed, head in enumerate(heads):
        generator = torch.Generator().manual_seed(seed)
        for index in range(len(DIMS)):
            shape = head.get_buffer(f"input_mean_{index}").shape
            head.set_standardization(
                index, torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) + 0.5
            )
    return heads


def run(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    flat = [tensor.numpy() for pair in inputs for tensor in pair]
    names = ["frames_speech", "mask_speech", "frames_words", "mask_words"]
    return session.run(["probabilities", "attributes"], dict(zip(names, flat, strict=True)))


SLOW = [pytest.param(name, None, marks=pytest.mark.slow) for name in NAMES if name != "attentive-statistics"]
SLOW += [pytest.param(name, "gated", marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize(
    ("name", "layer_sum"),
    [("attentive-statistics", None), ("mean-linear", "weighted"), ("ridge", "weighted"), *SLOW],
)
def test_the_model_says_what_the_mean_of_the_fold_models_says(tmp_path, name, layer_sum):
    heads = folds(name, layer_sum)
    worst = export_heads(heads, DESCRIPTION, tmp_path / "student.onnx")
    assert worst <= 1e-4
    for lengths in ([(1, 1)], [(6, 2), (1, 9), (0, 3), (12, 5)]):
        inputs = batch(lengths, layer_sum, padding=float("nan"), extra=3)
        inputs = [type(part)(part.frames.nan_to_num(nan=7.0), part.mask) for part in inputs]
        wanted = FoldMean(heads)(*(tensor for pair in inputs for tensor in pair))
        for found, expected in zip(run(tmp_path / "student.onnx", inputs), wanted, strict=True):
            np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "student.onnx"
    export_heads(folds("mean-linear"), DESCRIPTION, path)
    return path


def test_names_and_fingerprints_travel_with_the_model(exported):
    metadata = read_metadata(exported)
    assert metadata["classes"] == DESCRIPTION.classes
    assert metadata["attributes"] == [list(attribute) for attribute in DESCRIPTION.attributes]
    assert metadata["features"] == DESCRIPTION.features
    assert metadata["folds"] == 2
    assert metadata["normalize"] == "none"
    session = onnxruntime.InferenceSession(exported)
    assert [session_input.shape for session_input in session.get_inputs()][:2] == [
        ["batch", "time_speech", DIMS[0]],
        ["batch", "time_speech"],
    ]
    assert session.get_outputs()[0].shape == ["batch", 3]


def test_a_damaged_or_newer_model_is_one_line(exported, tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(exported.read_bytes()[: exported.stat().st_size // 2])
    with pytest.raises(ExportError, match="not an ONNX file of sercache"):
        read_metadata(tmp_path / "damaged.onnx")
    newer = exported.read_bytes().replace(b'"format_version": 1', b'"format_version": 9')
    (tmp_path / "newer.onnx").write_bytes(newer)
    with pytest.raises(ExportError, match="has format 9"):
        read_metadata(tmp_path / "newer.onnx")


def test_a_model_that_disagrees_with_torch_is_not_written(exported, tmp_path):
    path = tmp_path / "student.onnx"
    inputs = batch([(3, 2)], padding=0.0)
    names = ["frames_speech", "mask_speech", "frames_words", "mask_words"]
    named = dict(zip(names, (tensor for pair in inputs for tensor in pair), strict=True))
    trial = graph.Trial(named, {"probabilities": torch.zeros(1, 3)})
    with pytest.raises(ExportError, match="differs from torch by"):
        graph.verify_and_publish(exported.read_bytes(), [trial], path, tolerance=1e-4, what="student")
    with pytest.raises(ExportError, match="does not run"):
        graph.verify_and_publish(b"rubbish", [trial], path, tolerance=1e-4, what="student")
    assert list(tmp_path.iterdir()) == []


def test_a_student_without_attributes_has_one_output(tmp_path):
    from sercache.heads.registry import build_head

    head = build_head("mean-linear", [4], 3, [], {}, 0).eval()
    description = replace(DESCRIPTION, attributes=[], features={"speech": "f" * 64})
    export_heads([head], description, tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    assert [session_output.name for session_output in session.get_outputs()] == ["probabilities"]


def test_a_student_of_attributes_alone_has_one_output(tmp_path):
    from sercache.heads.registry import build_head

    head = build_head("mean-linear", [4], 0, [(1.0, 7.0)], {}, 0).eval()
    description = replace(
        DESCRIPTION, classes=[], attributes=DESCRIPTION.attributes[:1], features={"speech": "f" * 64}
    )
    assert export_heads([head], description, tmp_path / "student.onnx") <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
    assert [session_output.name for session_output in session.get_outputs()] == ["attributes"]


def test_missing_libraries_are_named_with_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'sercache\[onnx\]'"):
        graph.require_onnx()


def test_the_exporter_says_nothing(tmp_path, capfd):
    logging.getLogger("torch.onnx").setLevel(logging.WARNING)
    export_heads(folds("mean-linear"), DESCRIPTION, tmp_path / "student.onnx")
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")
    assert json.dumps(read_metadata(tmp_path / "student.onnx"))
