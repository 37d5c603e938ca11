"""From a torch module to an ONNX file: exported, compared with torch, and only then published."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sercache.errors import ExportError
from sercache.files import write_atomically

FORMAT_VERSION = 1
_MOST_BYTES = 1_900_000_000
"""One protobuf message, which an ONNX file is, holds 2 GB."""

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """Inputs by name, and torch's outputs by name.

    ``mask`` names an output that marks the valid values along the first axes of the others.
    """

    inputs: Named
    expected: Named
    mask: str | None = None


def require_onnx() -> None:
    """Make sure that what exports and verifies is installed.

    Raises:
        ExportError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"ONNX export needs {error.name}, which is not installed: pip install 'sercache[onnx]'"
        ) from None


def export_graph(
    module: nn.Module,
    example: Named,
    dynamic: Mapping[str, Mapping[int, str]],
    outputs: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, Any],
    what: str,
) -> bytes:
    """Return a module as an ONNX model.

    Args:
        module: takes the tensors of ``example`` in their order; in evaluation mode.
        example: an input by name, no dynamic size of it 0 or 1.
        dynamic: names of the sizes that may differ, by axis, by input.
        outputs: likewise, by output.
        metadata: kept in the model as JSON under ``sercache``, with the format's version.
        what: is exported, for messages.

    Raises:
        ExportError: torch cannot export it, or it is too large for one file.
    """
    require_onnx()
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > _MOST_BYTES:
        raise ExportError(f"{what} has {size / 1e9:.1f} GB of weights; one ONNX file holds less than 2 GB")
    free = torch.export.Dim.DYNAMIC
    # A module whose forward takes *tensors has one parameter, so one entry that holds them all.
    shapes = (tuple(dict.fromkeys(dynamic.get(name, ()), free) for name in example),)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(example),
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # whatever the exporter of this torch stumbles over
            reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
            raise ExportError(f"{what} cannot be exported by torch {torch.__version__}: {reason}") from error
    assert program is not None
    model = program.model_proto
    _name_sizes(model.graph, {**dynamic, **outputs})
    described = {"format_version": FORMAT_VERSION, **metadata}
    entry = model.metadata_props.add()
    entry.key, entry.value = "sercache", json.dumps(described, ensure_ascii=False, sort_keys=True)
    content: bytes = model.SerializeToString()
    return content


def verify_and_publish(
    content: bytes, trials: Sequence[Trial], path: Path, *, tolerance: float, what: str
) -> float:
    """Run a model on ``trials``, and write it if it agrees with torch; return the largest difference.

    Raises:
        ExportError: it does not run, or differs by more than ``tolerance``.
        OSError: the disk is full or the folder is not writable.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        wanted = {session_input.name for session_input in session.get_inputs()}
        for trial in trials:
            inputs = {name: tensor.numpy() for name, tensor in trial.inputs.items() if name in wanted}
            found = session.run(list(trial.expected), inputs)
            if trial.mask is not None:
                valid = session.run([trial.mask], inputs)[0]
                found = [value[valid] for value in found]
            for value, expected in zip(found, trial.expected.values(), strict=True):
                worst = max(worst, _difference(np.asarray(value), expected.numpy()))
    except Exception as error:  # onnxruntime's errors have no common base
        reason = str(error).strip().splitlines()[0][:200]
        raise ExportError(
            f"{what}: the exported model does not run ({reason}); nothing was written"
        ) from error
    if not worst <= tolerance:
        raise ExportError(
            f"{what}: the exported model differs from torch by {worst:.2g}, more than {tolerance:g}; "
            "nothing was written"
        )
    write_atomically(path, content)
    return worst


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a model that sercache exported.

    Raises:
        ExportError: it is no such file, or of another format version.
    """
    require_onnx()
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        found: dict[str, Any] = json.loads(
            next(entry.value for entry in model.metadata_props if entry.key == "sercache")
        )
        version = found.pop("format_version")
    except Exception as error:  # protobuf's DecodeError is not onnx's
        raise ExportError(
            f"{path}: not an ONNX file of sercache, or damaged ({type(error).__name__})"
        ) from error
    if version != FORMAT_VERSION:
        raise ExportError(f"{path}: has format {version}; this version reads format {FORMAT_VERSION}")
    return found


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if not found.size:
        return 0.0
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())


def _name_sizes(graph: Any, sizes: Mapping[str, Mapping[int, str]]) -> None:
    """Give the exporter's symbols (s27) the names that people know, wherever they stand."""
    renamed: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        for axis, name in sizes.get(value.name, {}).items():
            size = value.type.tensor_type.shape.dim[axis]
            if size.dim_param:
                renamed.setdefault(size.dim_param, name)
            else:
                size.dim_param = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in renamed:
                size.dim_param = renamed[size.dim_param]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
