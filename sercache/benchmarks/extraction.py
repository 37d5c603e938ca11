"""How fast an extraction is: against the bare forward pass, and against the plain way of doing it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from sercache.cache.store import Cache
from sercache.corpus import Corpus, Utterance
from sercache.devices import resolve_device
from sercache.encoders.checkpoint import Checkpoint, quiet_transformers
from sercache.encoders.protocol import Frames, Precision, StagedEncoder
from sercache.encoders.registry import load_encoder, open_transformers_checkpoint
from sercache.errors import EncoderError
from sercache.events import Event, Listener, ignore
from sercache.extract.autotune import relative_error, save_autotuning
from sercache.extract.device_pass import DevicePass, PassFeature, run_device_pass
from sercache.extract.encode import EncoderInput, read_input
from sercache.extract.resolve import ResolvedFeature, resolve_feature, start_resolved
from sercache.extract.schedule import cut_into_tasks, expected_lengths
from sercache.recipe import FeatureRecipe

SAMPLE_RATE_HZ = 16_000
_WORDS = (
    "i",
    "never",
    "said",
    "that",
    "you",
    "were",
    "wrong",
    "about",
    "it",
    "yesterday",
    "evening",
    "really",
)


@dataclass(frozen=True, slots=True)
class ExtractionBenchmark:
    """One encoder on one device.

    Attributes:
        encoder: its name.
        device: where it ran.
        precision: how it computed, chosen by measuring unless it was given.
        batch_limit: most samples or tokens in one batch; 0 means one clip at a time.
        clips: how many clips were encoded.
        hours: how much audio that is; for text the speech that it is the transcript of.
        whole_seconds: the extraction from file to shard, the median of the rounds.
        bare_seconds: the forward pass alone on the same batches, prepared and in memory.
        plain_seconds: transformers as it comes, float32, one clip at a time, from memory.
        share_of_bare: bare over whole; 1 would be an extraction that costs nothing beside the encoder. The
            median of ratios that were measured side by side.
        times_plain: plain over whole, likewise.
        batch_error: largest relative error of a clip in a batch against the clip alone.
        precision_error: largest relative error of a clip against transformers as it comes.
        flops: floating-point operations of one bare pass.
        matmul_flops_per_second: what a large matrix product reaches on this device at this precision.
    """

    encoder: str
    device: str
    precision: Precision
    batch_limit: float
    clips: int
    hours: float
    whole_seconds: float
    bare_seconds: float
    plain_seconds: float
    share_of_bare: float
    times_plain: float
    batch_error: float
    precision_error: float
    flops: float
    matmul_flops_per_second: float

    @property
    def utilisation(self) -> float:
        """Return the model's share of what a plain matrix product reaches, over the whole extraction."""
        return self.flops / self.whole_seconds / self.matmul_flops_per_second


def benchmark_extraction(
    encoder: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    clips: int = 60,
    mean_seconds: float = 5.0,
    rounds: int = 3,
    listener: Listener = ignore,
) -> ExtractionBenchmark:
    """Measure one encoder on clips made for it: noise of real lengths, or sentences of common words.

    Args:
        encoder: a hub name, the folder of a checkpoint, or ``random:`` and an architecture.
        device: where to compute.
        precision: ``auto``, ``float32`` or ``bfloat16``.
        clips: how many.
        mean_seconds: their mean length; lengths are lognormal, as those of utterances are.
        rounds: how often each way is timed; they take turns, so that a busy machine slows all of them.
        listener: receives progress events.

    Raises:
        EncoderError: the encoder cannot be loaded, or is an embedded one, which has no bare forward pass.
    """
    device = resolve_device(device)
    recipe = FeatureRecipe.model_validate({"encoder": encoder, "precision": precision})
    with TemporaryDirectory(prefix="sercache-bench-") as folder:
        corpus = _make_corpus(Path(folder), clips, mean_seconds)
        cache = Cache(Path(folder) / "cache")
        resolved = resolve_feature(cache, recipe, corpus, device)
        if not isinstance(resolved.encoder, StagedEncoder):
            raise EncoderError(f"encoder '{encoder}' has no network; sercache bench extract measures those")
        inputs = _inputs(corpus, resolved)
        checkpoint = open_transformers_checkpoint(encoder)
        plain = _Plain(checkpoint, device)
        ways: dict[str, Callable[[int], float]] = {
            "whole": lambda number: _whole(
                Path(folder) / f"round-{number}", corpus, recipe, resolved, device
            ),
            "bare": lambda number: _bare(resolved.encoder, inputs),
            "plain": lambda number: plain.seconds(inputs),
        }
        _bare(resolved.encoder, inputs)  # kernels are chosen and memory is claimed before the clock runs
        plain.seconds(inputs[:2])
        times: dict[str, list[float]] = {name: [] for name in ways}
        task = f"bench {resolved.spec.encoder}"
        listener(Event("start", task, 0.0, rounds))
        for number in range(rounds):
            for name, seconds_of in ways.items():
                times[name].append(seconds_of(number))
            listener(Event("advance", task, number + 1, rounds))
        listener(Event("finish", task, rounds, rounds))
        batch_error, precision_error = _errors(resolved.encoder, plain, inputs)
        seconds = sum(
            row.seconds for row in expected_lengths(corpus, corpus.utterances, resolved.spec.modality)
        )
        chosen = resolved.spec.precision
        return ExtractionBenchmark(
            encoder=resolved.spec.encoder,
            device=device,
            precision=chosen,
            batch_limit=resolved.encoder.batch_limit,
            clips=clips,
            hours=seconds / 3600,
            whole_seconds=statistics.median(times["whole"]),
            bare_seconds=statistics.median(times["bare"]),
            plain_seconds=statistics.median(times["plain"]),
            share_of_bare=_median_ratio(times["bare"], times["whole"]),
            times_plain=_median_ratio(times["plain"], times["whole"]),
            batch_error=batch_error,
            precision_error=precision_error,
            flops=_flops(resolved.encoder, inputs),
            matmul_flops_per_second=_matmul_flops_per_second(device, chosen),
        )


def profile_extraction(encoder: str, *, device: str = "auto", rows: int = 10) -> str:
    """Return the operations that a forward pass spends its time on, as torch's profiler prints them."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    device = resolve_device(device)
    precision: Precision = "bfloat16" if device.startswith("cuda") else "float32"
    loaded = load_encoder(encoder, device=device, precision=precision)
    with TemporaryDirectory(prefix="sercache-bench-") as folder:
        corpus = _make_corpus(Path(folder), 32, 5.0)
        rows_read = [
            row
            for utterance in corpus.utterances
            if isinstance(row := read_input(corpus, utterance, loaded.spec.sample_rate_hz), EncoderInput)
        ]
    contents: list[Any] = [row.content for row in rows_read]
    loaded.encode(contents)
    activities = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        loaded.encode(contents)
    sort_by = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=sort_by, row_limit=rows))


class _Plain:
    """Transformers as it comes: float32, one clip at a time, nothing changed."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self._checkpoint = checkpoint
        self._device = device
        with quiet_transformers():
            model = checkpoint.load_model()
            self._is_text = model.main_input_name == "input_ids"
            reader = checkpoint.load_tokenizer() if self._is_text else checkpoint.load_feature_extractor()
        self._reader: Any = reader
        is_whisper = checkpoint.model_type == "whisper"
        self._model: Any = (model.get_encoder() if is_whisper else model).to(device)

    def seconds(self, inputs: Sequence[EncoderInput]) -> float:
        """Return how long the clips take, one after the other."""
        started = time.perf_counter()
        for row in inputs:
            self.encode(row)
        return time.perf_counter() - started

    def encode(self, row: EncoderInput) -> NDArray[np.float32]:
        """Return the last layer of one clip, ``(T, D)``, padding and special tokens included."""
        import torch

        options = {} if self._is_text else {"sampling_rate": SAMPLE_RATE_HZ}
        with torch.inference_mode(), quiet_transformers():
            read = self._reader(row.content, return_tensors="pt", **options)
            output = self._model(**read.to(self._device), output_hidden_states=True)
            return np.asarray(output.last_hidden_state[0].cpu().numpy())


def _make_corpus(folder: Path, clips: int, mean_seconds: float) -> Corpus:
    generator = np.random.default_rng(0)
    seconds = np.clip(generator.lognormal(np.log(mean_seconds) - 0.125, 0.5, clips), 1.0, 25.0)
    rows = []
    for number, length in enumerate(seconds):
        samples = generator.standard_normal(round(length * SAMPLE_RATE_HZ)) / 10
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        words = generator.choice(_WORDS, max(1, round(2.5 * length)))
        rows.append(Utterance(id=f"clip-{number:04d}", audio=f"{number}.wav", text=" ".join(words)))
    return Corpus((), (), tuple(rows), folder)


def _inputs(corpus: Corpus, resolved: ResolvedFeature) -> list[EncoderInput]:
    """Return what the encoder reads, the longest first, as an extraction does."""
    rows = (read_input(corpus, utterance, resolved.spec.sample_rate_hz) for utterance in corpus.utterances)
    read = [row for row in rows if isinstance(row, EncoderInput)]
    return sorted(read, key=lambda row: -len(row.content))


def _whole(
    root: Path, corpus: Corpus, recipe: FeatureRecipe, resolved: ResolvedFeature, device: str
) -> float:
    """Return the seconds from wav files to published shards."""
    started = time.perf_counter()
    feature_set = start_resolved(Cache(root), ResolvedFeature(resolved.spec, resolved.encoder), device)
    if resolved.autotuning is not None:
        save_autotuning(feature_set.folder, device, resolved.autotuning)
    rows = expected_lengths(corpus, corpus.utterances, resolved.spec.modality)
    tasks = tuple(cut_into_tasks(rows, [resolved.spec], len(corpus)))
    feature = PassFeature("bench", recipe, resolved.spec, 0, 0)
    device_pass = DevicePass(
        "bench", corpus, len(corpus), root, (feature,), tasks, device, started_ns=time.time_ns()
    )
    run_device_pass(device_pass, [resolved.encoder])
    return time.perf_counter() - started


def _bare(encoder: Any, inputs: Sequence[EncoderInput]) -> float:
    """Return the seconds of the forward pass alone, on inputs that are prepared and in memory."""
    with quiet_transformers():
        prepared = [encoder.prepare(row.content) for row in inputs]
        started = time.perf_counter()
        encoder.begin(prepared)()
        return time.perf_counter() - started


def _errors(encoder: Any, plain: _Plain, inputs: Sequence[EncoderInput]) -> tuple[float, float]:
    """Return the largest relative error by batching, and against transformers, of a few clips."""
    few = list(inputs[:: max(1, len(inputs) // 6)])[:6]
    limit, encoder.batch_limit = encoder.batch_limit, 0.0
    contents = [row.content for row in few]
    alone: list[Frames] = encoder.encode(contents)
    encoder.batch_limit = encoder.batch_cost(contents)
    together: list[Frames] = encoder.encode(contents)
    encoder.batch_limit = limit
    batch_error = max(relative_error(batched, other) for batched, other in zip(together, alone, strict=True))
    is_text = encoder.spec.modality == "text"
    precision_error = 0.0
    for frames, row in zip(alone, few, strict=True):
        expected = plain.encode(row)
        words = expected[1:-1] if is_text else expected[: frames.shape[1]]
        precision_error = max(precision_error, relative_error(frames[0], words))
    return batch_error, precision_error


def _median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    return statistics.median(
        numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)
    )


def _flops(encoder: Any, inputs: Sequence[EncoderInput]) -> float:
    """Return the floating-point operations of one pass, padding included."""
    from torch.utils.flop_counter import FlopCounterMode

    contents = [row.content for row in inputs]
    counter = FlopCounterMode(display=False)
    with counter:
        encoder.encode(contents)
    return float(counter.get_total_flops())


def _matmul_flops_per_second(device: str, precision: Precision) -> float:
    """Return what a matrix product too large for the caches reaches; the best of some."""
    import torch

    size = 8192 if device.startswith("cuda") else 2048
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        left @ right
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
