import numpy as np
import pytest

from sercache.encoders.random_weights import has_random_weights
from sercache.encoders.registry import load_encoder
from sercache.errors import EncoderError


def test_the_same_architecture_has_the_same_weights_each_time() -> None:
    waveform = (np.random.default_rng(0).standard_normal(8_000) / 10).astype(np.float32)
    frames = [load_encoder("random:whisper-base").encode([waveform])[0] for _ in range(2)]
    np.testing.assert_array_equal(*frames)
    assert frames[0].shape == (1, 25, 512)


def test_the_name_in_the_cache_says_that_the_weights_are_random() -> None:
    spec = load_encoder("random:roberta-base", "last4").spec
    assert spec.encoder == "random:roberta-base"
    assert has_random_weights(spec.encoder)
    assert not has_random_weights("FacebookAI/roberta-base")
    assert (spec.num_layers, spec.dim, spec.layers) == (12, 768, ("sum-9-12",))


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(EncoderError, match=r"no architecture 'wavlm-larg'.*Did you mean 'wavlm-large'\?"):
        load_encoder("random:wavlm-larg")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "dim"),
    [("wavlm-large", 315, 1024), ("hubert-base", 94, 768), ("whisper-large-v3", 637, 1280),
     ("roberta-large", 355, 1024), ("modernbert-large", 395, 1024)],
)  # fmt: skip
def test_sizes_are_those_published(name: str, millions: float, dim: int) -> None:
    encoder = load_encoder(f"random:{name}")
    assert encoder.parameter_count / 1e6 == pytest.approx(millions, rel=0.01)
    assert encoder.spec.dim == dim
