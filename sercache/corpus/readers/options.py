"""Options of the readers: ``key=value`` from the command line, checked by a small model per reader."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from sercache.errors import CorpusError, did_you_mean
from sercache.validation import in_words

ReaderOptions = Mapping[str, str]


class ReaderModel(BaseModel):
    """Base of the models: unknown options are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _split_words(value: Any) -> Any:
    return (
        tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value
    )


def _split_pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [word.partition(":") for word in _split_words(value)]
    if not all(name.strip() and colon and meaning.strip() for name, colon, meaning in pairs):
        raise ValueError("expected pairs like 'hap:Happy,exc:Happy'")
    return {name.strip(): meaning.strip() for name, _, meaning in pairs}


Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
"""Several words, separated by commas."""

Renamings = Annotated[dict[str, str], BeforeValidator(_split_pairs)]
"""What is written, and what is meant: ``hap:Happy,exc:Happy``."""

Model = TypeVar("Model", bound=ReaderModel)


def parse_options(model: type[Model], options: ReaderOptions) -> Model:
    """Return the options as ``model``.

    Raises:
        CorpusError: an option is unknown, or its value is not of its kind.
    """
    known: Sequence[str] = list(model.model_fields)
    for name in options:
        if name not in known:
            listed = ", ".join(known) if known else "none"
            raise CorpusError(f"unknown option '{name}' (options: {listed}).{did_you_mean(name, known)}")
    try:
        return model(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise CorpusError(f"option {name}={options.get(name, '')}: {in_words(first)}") from None
