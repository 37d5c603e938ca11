"""Write small files in every format with the sercache that runs this script.

    PYTHONPATH=tests OLD/.venv/bin/python tests/golden/make.py tests/golden/files.zip

where OLD is a checkout of the version whose files are wanted. Only commands are used, whose names and options
stay; ``tests/test_golden_files.py`` reads what they wrote with the code of today.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import yaml

from support.tiny_checkpoints import save_tiny_checkpoint

SAMPLE = Path(__file__).parents[2] / "data"
ROOT_NAME = "/golden"
"""What stands in the files for the folder where they were made."""

ON_CPU = ["--device", "cpu", "--workers", "1"]
COMMAND = Path(sys.executable).with_name("sercache")
SPEAKERS, ROWS = 8, 6
STACKERS = [
    "best-single", "hard-vote", "soft-vote", "weighted", "greedy", "logistic", "neural", "soup", "lightgbm",
    "majority", "chance",
]  # fmt: skip
FAST = {
    "batch_size": 8,
    "stage1": {"epochs": 2, "learning_rate": 0.005},
    "stage2": {"epochs": 2, "learning_rate": 0.002},
}
RIDGE = {"name": "ridge", "head": "ridge", "features": ["speech"]}
FUSION = {
    "name": "fusion",
    "features": ["speech", "words"],
    "options": {"width": 4, "feedforward": 4},
    "seed": 1,
}
LINEAR = {"name": "linear", "head": "mean-linear", "features": ["speech"], "seed": 2}
SMALL_STACKING = {"bootstrap_samples": 100, "repeats": 1, "neural": {"runs": 2, "epochs": 10}}


def main(archive: Path) -> None:
    """Make everything in a temporary folder and pack it."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder).resolve())
        pack(Path(folder).resolve(), archive)


def make(root: Path) -> None:
    """Run every command that writes a file that is read again."""
    write_corpus(root)
    stack(write_recipe(root, "run", [RIDGE, FUSION, LINEAR], stackers=STACKERS))
    tuned = {"stackers": ["soft-vote"], "calibration": "dirichlet", "thresholds": True}
    stack(write_recipe(root, "dirichlet", [RIDGE], **tuned))
    stack(write_recipe(root, "uncalibrated", [RIDGE], stackers=["soft-vote"], calibration="none"))
    student = ["--head", "mean-linear", "--name", "student", "--training", "stage1.epochs=2"]
    student += ["--training", "stage2.epochs=0"]
    sercache("distill", root / "run", "-f", "speech", *student, *ON_CPU)
    sercache("bundle", root / "run", "-o", root / "bundle", "--stacker", "soup")
    sercache("predict", root / "bundle", "--corpus", root / "corpus.csv", "--split", "test",
             "--device", "cpu", "-o", root / "predictions.csv")  # fmt: skip
    experiments(root)
    finetune(root)
    interrupt(root)


def sercache(*arguments: object) -> None:
    """Run one command to its end."""
    subprocess.run([COMMAND, "-q", *map(str, arguments)], check=True)


def write_corpus(root: Path) -> None:
    """Some rows of the bundled sample; two speakers are the test split, and one recording is not there."""
    with (SAMPLE / "corpus.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        fields = list(reader.fieldnames or ())
        rows = list(reader)
    names = sorted({row["speaker"] for row in rows})[:SPEAKERS]
    kept = [row for name in names for row in [row for row in rows if row["speaker"] == name][:ROWS]]
    for row in kept:
        row["split"] = "test" if row["speaker"] in names[-2:] else "train"
    lost = {**kept[0], "id": "lost", "audio": "audio/lost.ogg"}
    with (root / "corpus.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, lost])
    shutil.copytree(SAMPLE / "audio", root / "audio")


def write_recipe(root: Path, name: str, members: list[dict[str, object]], **stacking: object) -> Path:
    """A recipe over two feature sets whose run is ``root/name``."""
    recipe = {
        "corpus": "corpus.csv",
        "cache": "cache",
        "output": name,
        "classes": ["Angry", "Sad", "Happy", "Neutral"],
        "features": {
            "speech": {"encoder": "logmel", "time_pool": 25},
            "words": {"encoder": "char-ngrams", "time_pool": 4},
        },
        "folds": {"count": 2, "inner_share": 0.34},
        "training": FAST,
        "members": members,
        "stacking": {**SMALL_STACKING, **stacking},
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def stack(recipe: Path) -> None:
    """Extract, train and stack."""
    sercache("extract", recipe, "--device", "cpu")
    sercache("train-ensemble", recipe, *ON_CPU)
    sercache("stack", recipe.with_suffix(""), "--no-report")


def experiments(root: Path) -> None:
    """An ablation, a search, and a stack of other systems' predictions."""
    recipe = write_recipe(root, "experiment", [FUSION], stackers=["soft-vote"])
    sercache("ablate", recipe, "--variants", "no-mixup", "--seeds", 1, *ON_CPU)
    sercache("tune", recipe, "--trials", 2, *ON_CPU)
    write_predictions(root)
    tables = [root / "others" / "first.csv", root / "others" / "second.csv"]
    labels = ["--labels", root / "corpus.csv", "--out-of-fold", "-o", root / "stacked"]
    sercache("stack", "--predictions", *tables, *labels, "--no-report")


def finetune(root: Path) -> None:
    """Low-rank updates of a tiny encoder."""
    save_tiny_checkpoint("wavlm+layer", root / "wavlm")
    recipe = write_recipe(root, "finetuned", [{**LINEAR, "features": ["wavlm"]}], stackers=["soft-vote"])
    content = yaml.safe_load(recipe.read_text())
    content["features"] = {"wavlm": {"encoder": str(root / "wavlm"), "precision": "float32", "time_pool": 25}}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    sercache("extract", recipe, "--device", "cpu")
    sercache("train-ensemble", recipe, *ON_CPU)
    sercache("finetune", root / "finetuned", "-m", "linear", "--lora", 1, "--set", "stage1.epochs=1",
             "--set", "stage2.epochs=0", "--device", "cpu")  # fmt: skip


def interrupt(root: Path) -> None:
    """The same training twice, once killed between two epochs."""
    for name in ("whole", "interrupted"):
        recipe = write_recipe(root, name, [FUSION], stackers=["soft-vote"])
        content = yaml.safe_load(recipe.read_text())
        content["training"] = {**FAST, "stage1": {"epochs": 8, "learning_rate": 0.005}}
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    sercache("train-ensemble", root / "whole.yaml", *ON_CPU)
    command = [COMMAND, "-q", "train-ensemble", root / "interrupted.yaml", *ON_CPU]
    process = subprocess.Popen(command)
    fold = root / "interrupted" / "members" / "fusion" / "fold-0"
    history = fold / "history.csv"
    while process.poll() is None:
        epochs = history.read_text().count("\n") if history.exists() else 0
        if epochs > 3 and (fold / "state.safetensors").exists():
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.001)
    if process.returncode != -signal.SIGKILL or not (fold / "state.safetensors").exists():
        raise SystemExit("the training ended before it was killed; make it longer")


def write_predictions(root: Path) -> None:
    """Tables as two other systems would write them."""
    (root / "others").mkdir()
    with (root / "corpus.csv").open(newline="") as stream:
        names = [row["id"] for row in csv.DictReader(stream)]
    classes = ["Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral"]
    for system in ("first", "second"):
        lines = [",".join(["id", *classes])]
        for number, name in enumerate(names):
            shares = [1 + (7 * number + 3 * column + len(system)) % 5 for column in range(len(classes))]
            lines.append(",".join([name, *(f"{share / sum(shares):.6f}" for share in shares)]))
        (root / "others" / f"{system}.csv").write_text("\n".join(lines) + "\n")


def pack(root: Path, archive: Path) -> None:
    """Keep what the tests read, without the name of the folder where it was made."""
    unread = [
        "audio", "*.html", "*.lock", "**/tensorboard", "**/linear-baseline/fold-*/weights.safetensors",
        "experiment-*/**/weights.safetensors", "whole/members/linear-baseline", "dirichlet/members",
        "uncalibrated/members", "run/members/student*/fold-*/weights.safetensors",
    ]  # fmt: skip
    for path in [path for pattern in unread for path in root.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if path.suffix in (".yaml", ".json", ".csv"):
                content = content.replace(str(root).encode(), ROOT_NAME.encode())
            if str(root).encode() in content:
                print(f"{path.relative_to(root)} names the folder where it was made", file=sys.stderr)
            packed.writestr(zipfile.ZipInfo(str(path.relative_to(root))), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
