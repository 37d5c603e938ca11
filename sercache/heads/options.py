"""What the options of a head may be, beyond their types."""


def require_positive(**options: int) -> None:
    """Raise ValueError, naming the option, unless all are 1 or more."""
    for option, value in options.items():
        if value < 1:
            raise ValueError(f"{option} must be at least 1, not {value}")


def require_dropout(dropout: float) -> None:
    """Raise ValueError unless ``dropout`` leaves something: 0 or more and below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
