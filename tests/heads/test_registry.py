import pytest
import torch

from sercache.errors import RecipeError
from sercache.heads.registry import build_head
from support.small_heads import DIMS, LAYERS, RANGES, SUMMING, small


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deepsr", {}, "unknown head 'deepsr'.*Did you mean 'deepser'"),
        ("deepser", {"widht": 3}, r"no option 'widht' \(options: width.*Did you mean 'width'"),
        ("deepser", {"width": 10, "attention_heads": 3}, "width 10 is not a multiple"),
        ("mean-linear", {"width": 3}, "no option 'width'"),
        ("deepser", {"width": "wide"}, "head 'deepser': option 'width' must be a whole number, not 'wide'"),
        ("deepser", {"width": 16.5}, "must be a whole number, not 16.5"),
        ("deepser", {"width": True}, "must be a whole number, not True"),
        ("deepser", {"dropout": "0.1"}, "option 'dropout' must be a number, not '0.1'"),
        ("deepser", {"dropout": 1}, "dropout must be at least 0 and below 1, not 1"),
        ("deepser", {"attention_heads": 0}, "attention_heads must be at least 1, not 0"),
        ("late-fusion", {"dropout": -0.1}, "dropout must be at least 0 and below 1, not -0.1"),
        ("late-fusion", {"width": 10, "attention_heads": 3}, "width 10 is not a multiple"),
        ("cross-attention", {"feedforward": 0}, "feedforward must be at least 1, not 0"),
        (
            "cross-attention",
            {"width": 10},
            "'cross-attention': width 10 is not a multiple of attention_heads 4",
        ),
        ("attentive-statistics", {"bottleneck": -1}, "bottleneck must be at least 1, not -1"),
        ("mean-linear", {"deviation": 1}, "option 'deviation' must be true or false, not 1"),
    ],
)
def test_a_wrong_option_is_one_clear_line(name, options, message):
    with pytest.raises(RecipeError, match=message):
        build_head(name, DIMS, 3, RANGES, options, 0)


@pytest.mark.parametrize("name", SUMMING)
@pytest.mark.parametrize(
    ("options", "layers", "message"),
    [
        ({"layer_sum": "weighted"}, None, "'layer_sum' is for feature sets of several layers"),
        ({"layer_sum": "weighted"}, (1, 1), "'layer_sum' is for feature sets of several layers"),
        ({"layer_sum": "wieghted"}, LAYERS, "unknown layer sum 'wieghted' .*Did you mean 'weighted'"),
        ({"layer_sum": 2}, LAYERS, "option 'layer_sum' must be a text, not 2"),
        ({"layer_sums": "gated"}, LAYERS, "no option 'layer_sums' .*Did you mean 'layer_sum'"),
        ({"layer_sums": "gated"}, None, r"no option 'layer_sums' \((?!.*layer_sum\b)"),
    ],
)
def test_a_wrong_layer_sum_is_one_clear_line(name, options, layers, message):
    with pytest.raises(RecipeError, match=message):
        build_head(name, DIMS, 3, RANGES, options, 0, layers)


def test_layers_are_told_for_each_feature_set():
    with pytest.raises(ValueError, match="input_layers has 1 entries for 2 feature sets"):
        build_head("deepser", DIMS, 3, RANGES, {}, 0, [3])


@pytest.mark.parametrize("name", SUMMING)
def test_layers_do_not_change_the_other_initial_weights(name):
    single = build_head(name, DIMS, 3, RANGES, {}, 5).state_dict()
    for kind in ("weighted", "gated"):
        layered = build_head(name, DIMS, 3, RANGES, {"layer_sum": kind}, 5, LAYERS).state_dict()
        layer_weights = {key for key in layered if key.startswith("layer_sums.0.")}
        assert layered.keys() - layer_weights == single.keys()
        assert layer_weights
        for key in single.keys() - {"input_mean_0", "input_scale_0"}:
            assert torch.equal(single[key], layered[key])


@pytest.mark.parametrize("name", SUMMING)
def test_weighted_is_the_default(name):
    default = build_head(name, DIMS, 3, RANGES, {}, 5, LAYERS).state_dict()
    assert default["layer_sums.0.score"].shape == (LAYERS[0],)


def test_building_a_head_leaves_every_generator_as_it_was(monkeypatch):
    def refuse(seed):
        raise AssertionError("torch.manual_seed also seeds the GPUs' generators, which nothing restores")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    before = torch.random.get_rng_state()
    small("deepser", seed=2**63 - 1)
    assert torch.equal(torch.random.get_rng_state(), before)
