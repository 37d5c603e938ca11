import pytest
import torch

from sercache.errors import TrainingError
from sercache.heads.protocol import HeadInput
from sercache.heads.registry import build_head
from sercache.training.checkpoint import (
    HeadDescription,
    load_head,
    load_optimizer_tensors,
    load_tensors,
    optimizer_tensors,
    save_head,
    save_tensors,
)


def describe(**changes):
    values = {
        "member": "one",
        "fold": 2,
        "head": "deepser",
        "options": {"width": 8, "feedforward": 8},
        "input_dims": [5],
        "input_layers": [1],
        "features": {"speech": "0f"},
        "classes": ["Angry", "Sad"],
        "attributes": [("arousal", 1.0, 7.0)],
        "best": {"macro_f1": 0.5},
        "versions": {},
    }
    return HeadDescription(**(values | changes))


def test_a_head_is_rebuilt_from_its_file_alone(tmp_path):
    head = build_head("deepser", [5], 2, [(1, 7)], {"width": 8, "feedforward": 8}, 3).eval()
    head.set_standardization(0, torch.randn(5), torch.rand(5) + 0.5)
    save_head(tmp_path / "weights.safetensors", head, describe())
    again, description = load_head(tmp_path / "weights.safetensors")
    assert description == describe()
    inputs = [HeadInput(torch.randn(2, 7, 5), torch.ones(2, 7, dtype=torch.bool))]
    with torch.no_grad():
        assert torch.equal(again(inputs).logits, head(inputs).logits)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "other"])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage):
    path = tmp_path / "weights.safetensors"
    head = build_head("deepser", [5], 2, [(1, 7)], {"width": 8, "feedforward": 8}, 3)
    described = describe(options={"width": 16, "feedforward": 8}) if damage == "other" else describe()
    save_head(path, head, described)
    content = path.read_bytes()
    if damage != "other":
        path.write_bytes(
            {"cut": content[:-9], "flip": b"\xff" + content[1:], "empty": b"", "text": b"weights"}[damage]
        )
    with pytest.raises(TrainingError, match=r"weights\.safetensors: .*(damaged|do not fit)") as caught:
        load_head(path)
    assert "\n" not in str(caught.value)


def test_another_format_version_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.zeros(1)}, {"format_version": 99})
    with pytest.raises(TrainingError, match="has format 99; this version reads format 1"):
        load_tensors(path)


def test_an_optimiser_goes_on_with_its_moments(tmp_path):
    def steps(optimizer, parameter, count):
        for _ in range(count):
            optimizer.zero_grad()
            ((parameter - torch.arange(4.0)) ** 2).sum().backward()
            optimizer.step()

    straight = torch.zeros(4, requires_grad=True)
    steps(torch.optim.AdamW([straight], lr=0.1), straight, 7)

    first = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.AdamW([first], lr=0.1)
    steps(optimizer, first, 3)
    save_tensors(tmp_path / "state", {"p": first, **optimizer_tensors(optimizer, "optimizer.")}, {})
    tensors, _ = load_tensors(tmp_path / "state")
    second = tensors["p"].clone().requires_grad_()
    resumed = torch.optim.AdamW([second], lr=0.1)
    load_optimizer_tensors(resumed, tensors, "optimizer.")
    steps(resumed, second, 4)
    assert torch.equal(second, straight)
