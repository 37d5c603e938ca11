"""Everything that is needed to predict a new recording, in one folder."""

from sercache.bundle.predictor import Bundle

__all__ = ["Bundle"]
