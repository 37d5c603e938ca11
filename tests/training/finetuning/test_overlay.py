"""Changed weights over an ordinary encoder: the frames that fine-tuning saw, and no trace afterwards."""

import numpy as np
import pytest
import torch

from sercache.encoders.registry import load_encoder
from sercache.errors import EncoderError, TrainingError
from sercache.recipe import FinetuningRecipe
from sercache.training.finetuning.layers import TrainedLayers
from sercache.training.finetuning.overlay import EncoderOverlay
from support.tiny_checkpoints import inputs_of

KINDS = [
    "wavlm",
    "wavlm+layer",
    "wav2vec2",
    "wav2vec2-bert",
    "whisper",
    "roberta",
    "modernbert",
    "deberta-v2",
]


def finetuned(folder, lora):
    encoder = load_encoder(str(folder), "last2", trainable=True)
    trained = TrainedLayers(encoder, 3, FinetuningRecipe(layers=2, lora=lora), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained.parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return encoder, EncoderOverlay.of(trained, "speech", "f" * 64, "float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [0, 2])
def test_an_ordinary_encoder_under_the_overlay_gives_what_fine_tuning_saw(checkpoint, tmp_path, kind, lora):
    trainable, overlay = finetuned(checkpoint(kind), lora)
    overlay.save(tmp_path / "overlay.safetensors")
    loaded = EncoderOverlay.load(tmp_path / "overlay.safetensors")
    encoder = load_encoder(str(checkpoint(kind)), "last2")
    prepared = inputs_of(encoder)
    before = encoder.begin(prepared)()
    with torch.no_grad():
        expected = [frames.numpy() for frames in trainable.frames(prepared)]
    with loaded.applied_to(encoder):
        found = encoder.begin(prepared)()
    for frames, wanted, earlier in zip(found, expected, before, strict=True):
        assert np.abs(frames - wanted).max() / wanted.std() < 1e-5
        assert np.abs(frames - earlier).max() / wanted.std() > 1e-2
    for frames, earlier in zip(encoder.begin(prepared)(), before, strict=True):
        assert np.array_equal(frames, earlier)


def test_it_goes_into_bfloat16_too(checkpoint):
    trainable, overlay = finetuned(checkpoint("wavlm+layer"), 2)
    encoder = load_encoder(str(checkpoint("wavlm+layer")), "last2", precision="bfloat16")
    prepared = inputs_of(encoder)
    with torch.no_grad():
        expected = trainable.frames(prepared)[0].numpy()
    with overlay.applied_to(encoder):
        found = encoder.begin(prepared)()[0]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02


def test_an_error_inside_takes_the_weights_out_again(checkpoint):
    _, overlay = finetuned(checkpoint("wavlm"), 0)
    encoder = load_encoder(str(checkpoint("wavlm")), "last2")
    before = {name: parameter.clone() for name, parameter in encoder.model.named_parameters()}
    with pytest.raises(ZeroDivisionError), overlay.applied_to(encoder):
        raise ZeroDivisionError
    assert all(torch.equal(parameter, before[name]) for name, parameter in encoder.model.named_parameters())


def test_another_encoder_and_a_damaged_file_are_refused(checkpoint, tmp_path):
    _, overlay = finetuned(checkpoint("roberta"), 0)
    with (
        pytest.raises(EncoderError, match=r"weights of 'roberta' .* do not belong to encoder 'bert'"),
        overlay.applied_to(load_encoder(str(checkpoint("bert")))),
    ):
        pass
    path = tmp_path / "overlay.safetensors"
    overlay.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TrainingError, match="damaged"):
        EncoderOverlay.load(path)
