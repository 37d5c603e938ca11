"""Checkpoints of transformers: from a name or a folder to a loaded model, or to one clear line."""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError

from sercache.cache.fingerprint import encoder_name, is_local
from sercache.errors import EncoderError

_LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    AttributeError,
    KeyError,
    TypeError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What transformers and the code of a checkpoint raise over a folder that is not what it should be."""

_CHECKPOINT_FILES = (
    "config.json",
    "*processor_config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_config.json",
    "adapter_model*",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.py",
)
"""The files of a local checkpoint that can change its frames."""

_UNUSED_WEIGHTS = ("pooler", "masked_spec_embed", "position_ids")
"""Weights that a checkpoint may lack: no frame depends on them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose config has been read; its weights are loaded by :meth:`load_model`.

    Attributes:
        name: what a feature set calls it: the hub name, or the name (never the path) of a local folder.
        source: what transformers loads.
        revision: hub commit, or a digest of the local files.
        is_local: whether it is a folder; if not, everything is loaded at the hub's ``revision``.
        config: the model's config.
        trust_remote_code: whether Python code that comes with the checkpoint may run.
    """

    name: str
    source: str
    revision: str
    is_local: bool
    config: Any
    trust_remote_code: bool

    @property
    def model_type(self) -> str:
        """Return transformers' name of the architecture."""
        return str(self.config.model_type)

    @property
    def num_layers(self) -> int:
        """Return how many hidden layers the config states."""
        count = getattr(self.config, "num_hidden_layers", None)
        if not isinstance(count, int):
            raise EncoderError(f"encoder '{self.name}': its config states no num_hidden_layers")
        return count

    def load_model(self) -> Any:
        """Return the model in float32, in evaluation mode, on the CPU.

        Raises:
            EncoderError: the weights are missing, damaged, or do not fill the model: a layer that would be
                left at random must never give features.
        """
        from transformers import AutoModel

        return self._load_weights(AutoModel)

    def load_speech_to_text(self) -> Any:
        """Return the model with the head that writes text, otherwise as :meth:`load_model` does."""
        from transformers import AutoModelForSpeechSeq2Seq

        return self._load_weights(AutoModelForSpeechSeq2Seq)

    def _load_weights(self, auto_class: Any) -> Any:
        import torch

        options = {"config": self.config, "dtype": torch.float32, "output_loading_info": True}
        model, report = self._load(auto_class, **options)
        missing = [key for key in report["missing_keys"] if not any(part in key for part in _UNUSED_WEIGHTS)]
        if missing:
            raise EncoderError(
                f"encoder '{self.name}': its weights lack {len(missing)} of the model's tensors, "
                f"such as '{min(missing)}'"
            )
        return model.eval().requires_grad_(False)

    def load_feature_extractor(self) -> Any:
        """Return what turns a waveform into the model's input (``preprocessor_config.json``)."""
        from transformers import AutoFeatureExtractor

        return self._load(AutoFeatureExtractor)

    def load_tokenizer(self) -> Any:
        """Return what turns a text into the model's input."""
        from transformers import AutoTokenizer

        return self._load(AutoTokenizer)

    def _load(self, auto_class: Any, **options: Any) -> Any:
        part = auto_class.__name__.removeprefix("Auto")
        if not self.is_local:
            options["revision"] = self.revision
        with quiet_transformers():
            try:
                return auto_class.from_pretrained(
                    self.source, trust_remote_code=self.trust_remote_code, **options
                )
            except _LOADING_ERRORS as error:
                reason = _first_line(error)
                raise EncoderError(f"encoder '{self.name}': no usable {part} ({reason})") from error


def open_checkpoint(name: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint by hub name or folder and read its config.

    Args:
        name: of the hub, or a folder.
        trust_remote_code: whether Python code that comes with it may run.
        revision: of the hub: a commit, branch or tag; None is what the hub gives today. A folder has but one.

    Raises:
        EncoderError: there is no such checkpoint, the hub cannot be reached, the model type is unknown, or
            the checkpoint needs its own code and ``trust_remote_code`` is off.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and (folder.exists() or is_local(name)):
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EncoderError(f"encoder '{name}': {what}; a local checkpoint is a folder with a config.json")
    in_folder = is_local(name)
    if in_folder and not (folder / "config.json").is_file():
        raise EncoderError(f"encoder '{name}': the folder is not a checkpoint (it has no config.json)")
    source = str(folder) if in_folder else name
    wanted = None if in_folder else revision
    config = _read_config(name, source, in_folder, trust_remote_code, wanted)
    found = local_digest(folder) if in_folder else _hub_commit(name, wanted)
    return Checkpoint(encoder_name(name), source, found, in_folder, config, trust_remote_code)


def local_digest(folder: Path) -> str:
    """Return a digest of the files of a checkpoint that can change its frames, wherever it lies."""
    digest = xxhash.xxh3_128()
    for path in checkpoint_files(folder):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that can change its frames, by name."""
    return sorted({path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep warnings and progress bars of transformers off the screen, and the hub's lines about retries.

    Their settings are restored afterwards.
    """
    from huggingface_hub.utils import logging as untyped_hub_logging
    from transformers.utils import logging

    transformers_logging: Any = logging
    hub_logging: Any = untyped_hub_logging
    hub_verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(hub_logging.ERROR)
    verbosity = transformers_logging.get_verbosity()
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub_logging.set_verbosity(hub_verbosity)
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bar:
            transformers_logging.enable_progress_bar()


def transformers_version() -> str:
    """Return the library that computes the frames, for ``FeatureSpec.library``."""
    import transformers

    return f"transformers {transformers.__version__}"


def _read_config(
    name: str, source: str, is_local: bool, trust_remote_code: bool, revision: str | None
) -> Any:
    from transformers import AutoConfig, PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    at = {} if revision is None else {"revision": revision}
    with quiet_transformers():
        try:
            raw, _ = PretrainedConfig.get_config_dict(source, **at)
        except (OSError, ValueError) as error:
            raise EncoderError(_unreadable(name, is_local, error)) from error
        model_type = raw.get("model_type")
        if model_type not in CONFIG_MAPPING:
            if "auto_map" not in raw:
                raise EncoderError(f"encoder '{name}': unknown model type '{model_type}' in its config.json")
            if not trust_remote_code:
                raise EncoderError(
                    f"encoder '{name}' comes with its own Python code; read that code, then allow it with "
                    "trust_remote_code"
                )
        try:
            return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **at)
        except _LOADING_ERRORS as error:
            raise EncoderError(f"encoder '{name}': bad config.json ({_first_line(error)})") from error


def _hub_commit(name: str, revision: str | None) -> str:
    """Return the commit of the config just read: the hub's cache keeps each in a folder of its own."""
    from huggingface_hub import try_to_load_from_cache

    config_path = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config_path, str):
        raise EncoderError(f"encoder '{name}': the hub does not say which revision this is")
    return Path(config_path).parent.name


def _unreadable(name: str, is_local: bool, error: Exception) -> str:
    if is_local:
        return f"encoder '{name}': its config.json cannot be read ({_first_line(error)})"
    return (
        f"encoder '{name}' is neither an embedded encoder nor a folder, and no such model can be reached on "
        f"the Hugging Face hub ({_why_unreachable()})."
    )


def _why_unreachable() -> str:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so only what was downloaded before is found"
    return "misspelt, private, or no connection"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
