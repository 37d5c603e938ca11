"""The student's way out: its head, and the encoder it reads, as ONNX files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sercache.bundle.onnx.encoders import export_encoder
from sercache.bundle.onnx.graph import require_onnx
from sercache.bundle.onnx.heads import export_heads
from sercache.errors import ExportError
from sercache.events import Event, Listener, ignore
from sercache.recipe import MemberRecipe
from sercache.run import Run
from sercache.training.checkpoint import load_head
from sercache.training.data import TrainingData
from sercache.training.member import WEIGHTS_NAME


def check_exports(
    run: Run,
    features: Sequence[str],
    *,
    head: Path | None,
    encoder: Path | None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what cannot be exported before anything is trained for it.

    Raises:
        ExportError: the libraries are missing, both files are one, the student reads several encoders, or
            its frames are normalised per speaker between encoder and head.
        RecipeError: there is no run.
    """
    recipe = run.recipe()
    if head is None and encoder is None:
        return
    require_onnx()
    for path in (head, encoder):
        if path is not None and path.is_dir():
            raise ExportError(f"{path} is a folder; name the file to write")
    if head is not None and encoder is not None and head.absolute() == encoder.absolute():
        raise ExportError(f"{head}: head and encoder want a file each")
    if encoder is not None and len(features) != 1:
        raise ExportError(
            f"--onnx-encoder exports one encoder; this student reads {len(features)} feature sets"
        )
    if encoder is not None and (training or {}).get("normalize", recipe.training.normalize) == "speaker":
        raise ExportError(
            "--onnx-encoder gives frames that a head reads as they are, and this student's are normalised "
            "per speaker first; add --training normalize=none"
        )


def export_student(
    data: TrainingData, member: MemberRecipe, path: Path, listener: Listener = ignore
) -> float:
    """Write the mean of a trained member's fold models as one ONNX model; see :func:`export_heads`.

    Returns:
        The largest difference to torch.

    Raises:
        TrainingError: a fold's weights are missing or damaged.
        ExportError: it cannot be exported, or does not agree with torch.
    """
    listener(Event("start", "export/head", total=1))
    loaded = [
        load_head(data.run.fold_folder(member.name, fold) / WEIGHTS_NAME)
        for fold in range(data.recipe.folds.count)
    ]
    worst = export_heads([head for head, _ in loaded], loaded[0][1], path)
    listener(Event("finish", "export/head", values={"difference": worst}))
    return worst


def export_encoder_of(
    data: TrainingData, member: MemberRecipe, path: Path, listener: Listener = ignore
) -> float:
    """Write the encoder of a member's only feature set as an ONNX model; see :func:`export_encoder`.

    Returns:
        The largest difference to torch.

    Raises:
        EncoderError: the encoder cannot be loaded.
        ExportError: it is not the one that the features came from, or cannot be exported.
    """
    (name,) = member.features
    listener(Event("start", "export/encoder", total=1))
    worst = export_encoder(data.recipe.features[name], data.feature_sets[name].spec, path)
    listener(Event("finish", "export/encoder", values={"difference": worst}))
    return worst
