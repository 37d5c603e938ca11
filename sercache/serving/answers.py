"""The JSON answers of the server, as its API documentation describes them."""

from typing import Any

from pydantic import BaseModel, Field

import sercache
from sercache.bundle.description import Evaluation, TrainingData
from sercache.serving.limits import Limits
from sercache.serving.worker import Predictor


class Health(BaseModel):
    """The state of the server."""

    status: str
    requests: int = Field(description="How many requests are being handled.")
    version: str


class AttributeScale(BaseModel):
    """An attribute and the ends of its scale."""

    name: str
    low: float
    high: float


class ServerLimits(BaseModel):
    """The limits of the server."""

    max_bytes: int = Field(description="Largest size of a recording, in bytes.")
    max_seconds: float = Field(description="Longest duration of a recording, in seconds.")
    max_text: int = Field(description="Longest transcript, in characters.")
    timeout_seconds: float
    queue: int = Field(description="How many requests are handled at once.")


class BundleCard(BaseModel):
    """The parts of a bundle, its training data and its evaluation."""

    members: list[str]
    stacker: str
    coverage: float | None
    encoders: dict[str, str] = Field(description="Encoder of each feature set.")
    licenses: dict[str, str | None] = Field(description="Of the encoders, as their repositories state them.")
    training_data: TrainingData
    evaluation: Evaluation | None = Field(
        description="On speakers that no model of the bundle was trained on."
    )


class BundleFacts(BaseModel):
    """The outputs of a bundle, and the limits of the server."""

    name: str
    classes: list[str]
    attributes: list[AttributeScale]
    needs_text: bool
    can_transcribe: bool = Field(description="Whether recordings without a transcript are transcribed.")
    card: BundleCard
    limits: ServerLimits
    version: str


class WindowAnswer(BaseModel):
    """The prediction for one window of the recording."""

    start_seconds: float
    end_seconds: float
    label: str | None = Field(None, description="Null of a bundle with attributes alone.")
    probabilities: dict[str, float] = {}
    attributes: dict[str, float]


class Prediction(BaseModel):
    """The prediction for a recording."""

    id: str = Field(description="The file name that was sent.")
    seconds: float
    label: str | None = Field(None, description="Null of a bundle with attributes alone.")
    probabilities: dict[str, float] = {}
    posteriors: dict[str, float] = Field({}, description="Of the stacker, before calibration.")
    attributes: dict[str, float]
    conformal_set: list[str] = Field(
        [],
        description="Classes that contain the true class with the bundle's coverage; empty if it has none.",
    )
    members: dict[str, dict[str, float]] = Field(
        description="Probabilities of each member; attribute values of a bundle with attributes alone."
    )
    disagreement: float = Field(description="Between the members, from 0 (all agree) to 1.")
    text: str | None = Field(description="The transcript, as far as it is known.")
    notes: list[str] = Field(description="What makes the prediction less reliable.")
    windows: list[WindowAnswer]


class Refusal(BaseModel):
    """The reason why there is no prediction."""

    detail: str = Field(description="One readable line.")


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": description}
    for status, description in {
        400: "The recording cannot be decoded or is empty, or the form is damaged",
        403: "The request comes from a page of another origin, or names another host",
        408: "The upload took too long",
        413: "The recording is too large or too long",
        415: "Neither a form nor a recording",
        422: "A field is missing, unknown or invalid",
        503: "Too many requests at once, or the server is being stopped; see Retry-After",
        504: "No answer within the time limit",
    }.items()
}


def bundle_facts(predictor: Predictor, limits: Limits) -> BundleFacts:
    """Return the outputs of a bundle, and the limits of the server."""
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
