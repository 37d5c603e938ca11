"""What of an encoder is trained, at which rate, and that nothing else is."""

import re

import numpy as np
import pytest
import torch

from sercache.encoders.registry import load_encoder
from sercache.errors import TrainingError
from sercache.recipe import FinetuningRecipe
from sercache.training.finetuning.layers import TrainedLayers
from support.tiny_checkpoints import inputs_of

KINDS = [
    "wavlm",
    "wavlm+layer",
    "wav2vec2",
    "hubert+layer",
    "wav2vec2-bert",
    "whisper",
    "roberta",
    "modernbert",
]


def loss_of(encoder, prepared, seed=0):
    torch.manual_seed(seed)
    return sum(frames.square().mean() for frames in encoder.frames(prepared))


@pytest.mark.parametrize("kind", [*KINDS, "deberta-v2", "data2vec-audio"])
def test_trainable_frames_are_those_of_inference(checkpoint, kind):
    trainable = load_encoder(str(checkpoint(kind)), "0,3", trainable=True)
    frozen = load_encoder(str(checkpoint(kind)), "0,3")
    prepared = inputs_of(frozen)
    expected = frozen.begin(prepared)()
    with torch.no_grad():
        found = trainable.frames(prepared)
    for frames, wanted in zip(found, expected, strict=True):
        assert frames.shape == wanted.shape
        assert np.abs(frames.numpy() - wanted).max() / wanted.std() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [0, 2])
def test_what_is_trained_has_gradients_and_nothing_else_has(checkpoint, kind, lora):
    encoder = load_encoder(str(checkpoint(kind)), trainable=True)
    trained = TrainedLayers(encoder, 3, FinetuningRecipe(layers=2, lora=lora), seed=1)
    prepared = inputs_of(encoder)
    loss_of(encoder, prepared).backward()
    names = set(trained.parameters())
    having = {name for name, parameter in encoder.model.named_parameters() if parameter.grad is not None}
    assert having <= names
    if lora:
        assert len(names) > 8
        # The second factor is 0 at first, so the first one has no slope yet; every update must have one.
        second = {name for name in names if "lora_B" in name}
        grads = {name: trained.parameters()[name].grad for name in second}
        still = {name for name, grad in grads.items() if grad is None or not grad.any()}
        assert not {
            name for name in still if not name.rsplit(".lora_B")[0].endswith(("k_proj", "key", "linear_k"))
        }
    else:
        assert not [name for name in names if re.search(r"layers?\.0\.", name)]
        assert not names - having


def test_each_layer_learns_at_a_share_of_the_rate_above_it(checkpoint):
    encoder = load_encoder(str(checkpoint("wavlm+layer")), trainable=True)
    trained = TrainedLayers(encoder, 3, FinetuningRecipe(layers=3), seed=1)
    rates = {
        id(parameter): group["lr"] for group in trained.groups(1e-3, 0.5) for parameter in group["params"]
    }
    model = encoder.model
    for layer, expected in ((2, 1e-3), (1, 5e-4), (0, 2.5e-4)):
        parameters = [
            parameter
            for name, parameter in model.encoder.layers[layer].named_parameters()
            if "position_bias" not in name
        ]
        assert {rates[id(parameter)] for parameter in parameters} == {expected}
    assert {rates[id(parameter)] for parameter in model.encoder.layer_norm.parameters()} == {1e-3}
    assert id(model.encoder.layers[0].attention.position_bias.embedding.weight) not in rates


def test_layers_above_the_highest_kept_one_are_not_trained(checkpoint):
    encoder = load_encoder(str(checkpoint("roberta")), "2", trainable=True)
    trained = TrainedLayers(encoder, 2, FinetuningRecipe(layers=1), seed=1)
    assert {name.split(".")[2] for name in trained.parameters()} == {"1"}


@pytest.mark.parametrize("kind", ["wavlm+layer", "whisper", "roberta"])
def test_gradient_checkpointing_changes_no_gradient(checkpoint, kind):
    gradients = []
    for is_on in (False, True):
        encoder = load_encoder(str(checkpoint(kind)), trainable=True)
        trained = TrainedLayers(encoder, 3, FinetuningRecipe(layers=2, gradient_checkpointing=is_on), seed=1)
        trained.train()
        loss_of(encoder, inputs_of(encoder), seed=3).backward()
        gradients.append({name: parameter.grad for name, parameter in trained.parameters().items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_only_trained_layers_drop_out_and_nothing_is_masked_or_skipped(checkpoint):
    """SpecAugment and layerdrop would change frames of layer 1, below what is trained."""
    encoder = load_encoder(str(checkpoint("wavlm+layer")), "1,3", trainable=True)
    encoder.model.config.layerdrop = encoder.model.config.mask_time_prob = 0.9
    trained = TrainedLayers(encoder, 3, FinetuningRecipe(layers=2), seed=1)
    prepared = inputs_of(encoder)
    trained.train()
    first, second = (torch.cat(encoder.frames(prepared), dim=1) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    trained.train(False)
    assert torch.equal(*(encoder.frames(prepared)[0] for _ in range(2)))


def test_reset_gives_the_loaded_weights_back(checkpoint):
    encoder = load_encoder(str(checkpoint("roberta")), trainable=True)
    trained = TrainedLayers(encoder, 3, FinetuningRecipe(lora=2), seed=1)
    before = {name: parameter.detach().clone() for name, parameter in trained.parameters().items()}
    with torch.no_grad():
        for parameter in trained.parameters().values():
            parameter.add_(1)
    trained.reset()
    assert all(torch.equal(parameter, before[name]) for name, parameter in trained.parameters().items())


def test_a_layer_that_has_none_below_it_is_refused(checkpoint):
    encoder = load_encoder(str(checkpoint("roberta")), "0", trainable=True)
    with pytest.raises(TrainingError, match="layer 0 is kept alone"):
        TrainedLayers(encoder, 0, FinetuningRecipe(), seed=1)
