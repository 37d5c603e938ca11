"""The JSON values that the server answers with, as its documentation states them."""

from typing import Any

from pydantic import BaseModel, Field

import sercache
from sercache.bundle.description import Evaluation, TrainingData
from sercache.serving.limits import Limits
from sercache.serving.worker import Predictor


class Health(BaseModel):
    """The server predicts."""

    status: str
    requests: int = Field(description="How many are in the house.")
    version: str


class AttributeScale(BaseModel):
    """An attribute and the ends of its scale."""

    name: str
    low: float
    high: float


class ServerLimits(BaseModel):
    """What the server takes on."""

    max_bytes: int = Field(description="Of one recording.")
    max_seconds: float = Field(description="Of audio in it.")
    max_text: int = Field(description="Characters of a transcript.")
    timeout_seconds: float
    queue: int = Field(description="Requests at once.")


class BundleCard(BaseModel):
    """What a bundle is made of, what it learnt from, and how it did."""

    members: list[str]
    stacker: str
    coverage: float | None
    encoders: dict[str, str] = Field(description="By feature set.")
    licenses: dict[str, str | None] = Field(description="Of the encoders, as their repositories state them.")
    training_data: TrainingData
    evaluation: Evaluation | None = Field(description="On speakers that nothing in the bundle has heard.")


class BundleFacts(BaseModel):
    """What a bundle predicts, and what the server takes on."""

    name: str
    classes: list[str]
    attributes: list[AttributeScale]
    needs_text: bool
    can_transcribe: bool = Field(description="Whether a transcript that is not sent is made.")
    card: BundleCard
    limits: ServerLimits
    version: str


class WindowAnswer(BaseModel):
    """What is heard in one window of the recording."""

    start_seconds: float
    end_seconds: float
    label: str | None = Field(None, description="Null of a bundle with attributes alone.")
    probabilities: dict[str, float] = {}
    attributes: dict[str, float]


class Prediction(BaseModel):
    """What is heard in a recording."""

    id: str = Field(description="The recording's name, as it was sent.")
    seconds: float
    label: str | None = Field(None, description="Null of a bundle with attributes alone.")
    probabilities: dict[str, float] = {}
    posteriors: dict[str, float] = Field({}, description="As the stacker says them, before calibration.")
    attributes: dict[str, float]
    conformal_set: list[str] = Field(
        [],
        description="What the truth is among, as often as the bundle's coverage says; empty without one.",
    )
    members: dict[str, dict[str, float]] = Field(
        description="Each member's own probabilities; attribute values of a bundle with attributes alone."
    )
    disagreement: float = Field(description="Of the members: 0, all say the same, to 1.")
    text: str | None = Field(description="What is said, as far as it is known.")
    notes: list[str] = Field(description="What the answer stands on less firmly than it should.")
    windows: list[WindowAnswer]


class Refusal(BaseModel):
    """Why there is no prediction."""

    detail: str = Field(description="One line for people.")


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": description}
    for status, description in {
        400: "The recording cannot be decoded or holds nothing to hear, or the form is damaged",
        403: "Asked by a web page of another origin, or under a name that is not the server's",
        408: "The upload took too long",
        413: "The recording is too large or too long",
        415: "Neither a form nor a recording",
        422: "A field is missing, unknown or not as it should be",
        503: "Too many requests at once, or the server is being stopped; Retry-After says when to come again",
        504: "No answer within the time limit",
    }.items()
}


def bundle_facts(predictor: Predictor, limits: Limits) -> BundleFacts:
    """Return what a bundle predicts, and what the server takes on."""
    described = predictor.description
    return BundleFacts(
        name=predictor.name,
        classes=list(predictor.classes),
        attributes=[
            AttributeScale(name=attribute.name, low=attribute.low, high=attribute.high)
            for attribute in predictor.attributes
        ],
        needs_text=predictor.needs_text,
        can_transcribe=predictor.can_transcribe,
        card=BundleCard(
            members=[member.name for member in described.members],
            stacker=described.stacker,
            coverage=described.coverage,
            encoders={name: feature.recipe.encoder for name, feature in described.features.items()},
            licenses={name: feature.card.license for name, feature in described.features.items()},
            training_data=described.training_data,
            evaluation=described.evaluation,
        ),
        limits=ServerLimits(
            max_bytes=limits.max_bytes,
            max_seconds=limits.max_seconds,
            max_text=limits.max_text,
            timeout_seconds=limits.timeout_seconds,
            queue=limits.queue,
        ),
        version=sercache.__version__,
    )
