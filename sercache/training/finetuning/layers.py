"""Which weights of an encoder are trained: its top layers, or low-rank updates of them (LoRA)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sercache.encoders.protocol import TransformersEncoder
from sercache.errors import TrainingError
from sercache.recipe import FinetuningRecipe

_DEFAULT_LAYERS = 4
_NOT_CALLED = ("gru_rel_pos_linear",)
"""Linear maps whose weights are read and which are never called: LoRA around them would do nothing."""


class TrainedLayers:
    """The layers of one encoder that are trained, top first; everything else stays frozen.

    Layers count from the highest one that the feature set keeps: what lies above it makes no frame. The norm
    after the last layer is trained with it. What all layers share (WavLM's position bias) is not.

    Only these layers are ever in training mode. So dropout acts in them alone, and the masks and skipped
    layers that transformers draws for whole models in training do not.

    Args:
        encoder: loaded with ``trainable``; with LoRA its layers are changed in place.
        top: the highest kept layer, counted from 1.
        settings: how many layers, and the rank of LoRA.
        seed: of LoRA's first weights.

    Raises:
        TrainingError: the encoder has no such layers, or cannot do what is asked.
    """

    def __init__(self, encoder: TransformersEncoder, top: int, settings: FinetuningRecipe, seed: int) -> None:
        self.encoder = encoder
        name = encoder.spec.encoder
        path, stack = _layer_stack(encoder)
        wanted = settings.layers or (len(stack) if settings.lora else _DEFAULT_LAYERS)
        if top == 0:
            raise TrainingError(
                f"encoder '{name}': layer 0 is kept alone, and no layer lies below it to train"
            )
        self.count = min(wanted, top)
        self.lora = settings.lora
        self.scaling = (settings.lora_alpha or 2.0 * settings.lora) / settings.lora if settings.lora else 0.0
        indices = range(top - 1, top - 1 - self.count, -1)
        self._modules: list[dict[str, nn.Module]] = [{f"{path}.{index}": stack[index]} for index in indices]
        if not self.lora and top == len(stack) and (norm := _final_norm(encoder.model)) is not None:
            self._modules[0][norm] = encoder.model.get_submodule(norm)
        if settings.gradient_checkpointing:
            self._checkpoint_gradients(stack)
        if self.lora:
            self._add_lora(seed)
        shared = _shared(stack)
        self.by_depth: list[dict[str, nn.Parameter]] = [
            {
                f"{prefix}.{name}": parameter
                for prefix, module in modules.items()
                for name, parameter in module.named_parameters()
                if id(parameter) not in shared and (not self.lora or "lora_" in name)
            }
            for modules in self._modules
        ]
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)
        self._initial = {key: value.detach().clone() for key, value in self.parameters().items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by its name in the encoder's model."""
        return {key: value for layer in self.by_depth for key, value in layer.items()}

    def reset(self) -> None:
        """Put back the weights that the encoder was loaded with."""
        self.load(self._initial)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put weights in, by name."""
        for key, parameter in self.parameters().items():
            parameter.copy_(tensors[key])

    def train(self, mode: bool = True) -> None:
        """Turn dropout in the trained layers on or off."""
        for modules in self._modules:
            for module in modules.values():
                module.train(mode)

    def groups(self, learning_rate: float, decay: float) -> list[dict[str, Any]]:
        """Return groups for an optimiser: each layer at ``decay`` times the rate of the one above it."""
        return [
            {"params": list(layer.values()), "lr": learning_rate * decay**depth}
            for depth, layer in enumerate(self.by_depth)
        ]

    def _checkpoint_gradients(self, stack: nn.ModuleList) -> None:
        from torch.utils.checkpoint import checkpoint
        from transformers.modeling_layers import GradientCheckpointingLayer

        for layer in stack:
            if not isinstance(layer, GradientCheckpointingLayer):
                raise TrainingError(
                    f"encoder '{self.encoder.spec.encoder}': its layers know no gradient checkpointing; turn "
                    "gradient_checkpointing off and lower micro_batch_seconds instead"
                )
            layer.gradient_checkpointing = True
            again = partial(checkpoint, use_reentrant=False)
            object.__setattr__(layer, "_gradient_checkpointing_func", again)

    def _add_lora(self, seed: int) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise TrainingError(
                "LoRA needs peft; install it with: pip install 'sercache[finetune]'"
            ) from None
        targets = [
            f"{prefix}.{name}"
            for modules in self._modules
            for prefix, module in modules.items()
            for name, part in module.named_modules()
            if isinstance(part, nn.Linear) and name.rpartition(".")[2] not in _NOT_CALLED
        ]
        config = LoraConfig(r=self.lora, lora_alpha=self.scaling * self.lora, target_modules=targets)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            inject_adapter_in_model(config, self.encoder.model)
        self.encoder.model.eval()


def _layer_stack(encoder: TransformersEncoder) -> tuple[str, nn.ModuleList]:
    """Return the Transformer layers of an encoder, and where they are in its model."""
    for path, module in encoder.model.named_modules():
        is_stack = isinstance(module, nn.ModuleList) and path.rpartition(".")[2] in ("layer", "layers")
        if is_stack and len(module) == encoder.spec.num_layers:
            return path, module
    raise TrainingError(
        f"encoder '{encoder.spec.encoder}': a {encoder.model.config.model_type} model has no stack of "
        f"{encoder.spec.num_layers} layers that could be trained"
    )


def _final_norm(model: Any) -> str | None:
    """Return where the norm after the last layer is; most models have none."""
    if getattr(model.config, "do_stable_layer_norm", False):
        return "encoder.layer_norm"
    return {"whisper": "layer_norm", "modernbert": "final_norm"}.get(model.config.model_type)


def _shared(stack: nn.ModuleList) -> set[int]:
    """Return the ids of parameters that belong to more than one layer."""
    seen: set[int] = set()
    shared: set[int] = set()
    for layer in stack:
        identities = {id(parameter) for parameter in layer.parameters()}
        shared |= seen & identities
        seen |= identities
    return shared
