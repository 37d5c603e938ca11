"""``sercache plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, split_names
from .rendering import numbers, print_json, print_note, print_table, print_text

if TYPE_CHECKING:
    from sercache.extract.encoder_costs import Gpus
    from sercache.extract.plan import Facility, ScalePlan

_MEDUSA = [
    "microsoft/wavlm-large",
    "facebook/hubert-large-ll60k",
    "openai/whisper-large-v3",
    "FacebookAI/roberta-large",
    "answerdotai/ModernBERT-large",
]
_CORES_PER_GPU = 8


def plan(
    corpus: Annotated[
        Path | None, typer.Argument(metavar="CORPUS", help="The manifest, .csv or .parquet; or --hours.")
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option("--encoders", "--encoder", help="A,B or repeated; else MEDUSA's five."),
    ] = None,
    gpus: Annotated[str, typer.Option(help="Which and how many: 8xA100, H100.")] = "1xA100",
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of one GPU.")] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Of speech, in place of a corpus.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="CPU cores in all; else 8 for each GPU.")] = None,
    disk: Annotated[float, typer.Option(metavar="GB/S", help="Of the disk under corpus and cache.")] = 1.0,
    network: Annotated[
        float | None,
        typer.Option(metavar="GBIT/S", help="Between that disk and all GPUs."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A cache that a GPU has filled: its speeds in place of sums.")
    ] = None,
    measured_on: Annotated[str | None, typer.Option(metavar="A100", help="With --cache: that GPU.")] = None,
    as_json: Json = False,
) -> None:
    """Estimate hours, GB and cost of an extraction, and what limits it. Nothing is written.

    Example: sercache plan corpus.csv --encoders microsoft/wavlm-large,openai/whisper-large-v3 --gpus 8xA100

    Example: sercache plan --hours 1000000 --gpus 64xH100 --network 100
    """
    from sercache.corpus.manifest import read_corpus
    from sercache.errors import CorpusError, SercacheError
    from sercache.extract import plan as scale
    from sercache.extract.encoder_costs import encoder_cost, parse_gpus

    if (corpus is None) == (hours is None):
        raise CorpusError("one of both: a corpus, or --hours of speech")
    if (cache is None) != (measured_on is None):
        raise SercacheError("--cache and --measured-on go together: a cache, and the GPU that filled it")
    names = split_names(*(encoders or _MEDUSA))
    known = parse_gpus(gpus)
    speech = (
        scale.assumed_speech(hours or 0.0) if corpus is None else scale.measure_speech(read_corpus(corpus))
    )
    facility = scale.Facility(
        gpus=known,
        cores=cores or _CORES_PER_GPU * known.count,
        disk_bytes_per_second=disk * 1e9,
        network_bytes_per_second=None if network is None else network * 1e9 / 8,
    )
    measured = None
    if cache is not None and measured_on is not None:
        measured = scale.measured_speeds(cache, parse_gpus(measured_on), known)
    costs = [encoder_cost(name) for name in dict.fromkeys(names)]
    found = scale.plan_scale(speech, costs, facility, measured)
    if as_json:
        print_json(found)
    else:
        _print_plan(found, facility, price_per_hour, set(measured or ()))


def _print_plan(
    plan: "ScalePlan", facility: "Facility", price_per_hour: float | None, measured: set[str]
) -> None:
    speech = plan.speech
    decoding = "measured here" if speech.is_decoding_measured else "supposed"
    print_text(
        f"{speech.utterances:,} utterances, {speech.seconds / 3600:,.1f} h of speech; a core decodes "
        f"{speech.decoding:,.0f} s in a second ({decoding})"
    )
    rows = [
        (
            name,
            _amount(hours),
            _amount(plan.stored_bytes[name] / 1e9),
            "measured" if name in measured else "FLOPs",
        )
        for name, hours in plan.gpu_hours.items()
    ]
    stored = sum(plan.stored_bytes.values())
    rows.append(("all", _amount(sum(plan.gpu_hours.values())), _amount(stored / 1e9), ""))
    print_table(["encoder", *numbers("GPU hours", "GB", "by")], rows)
    for name, hours in sorted(plan.hours.items(), key=lambda item: -item[1]):
        print_text(f"  {_amount(hours):>9} h  {name}{_described(name, facility)}")
    price = "" if price_per_hour is None else f", {_money(plan, facility.gpus, price_per_hour)}"
    print_text(
        f"About {_amount(plan.wall_hours)} h on {facility.gpus}{price}; the {plan.bottleneck} limits it.",
        "bold",
    )
    print_note(
        f"{plan.shards:,} shards and {plan.index_bytes / 1e6:,.1f} MB of index for each feature set, "
        f"{plan.metadata_operations:,} operations on files.\n"
        f"An estimate: {facility.utilisation:.0%} of published dense bfloat16 FLOP/s, 2 FLOP per weight and "
        "frame, one layer in float16. sercache extract --dry-run measures on the machine itself."
    )


def _described(name: str, facility: "Facility") -> str:
    network = (facility.network_bytes_per_second or 0.0) * 8 / 1e9
    return {
        "GPU": f" ({facility.gpus})",
        "decoding CPU": f" ({facility.cores} cores)",
        "disk": f" ({facility.disk_bytes_per_second / 1e9:g} GB/s)",
        "network": f" ({network:g} Gbit/s)",
    }[name]


def _money(plan: "ScalePlan", gpus: "Gpus", price_per_hour: float) -> str:
    return f"{plan.wall_hours * gpus.count * price_per_hour:,.2f} at {price_per_hour:g} a GPU hour"


def _amount(value: float) -> str:
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
