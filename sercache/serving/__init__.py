"""Prediction over HTTP: a page, a JSON interface, and the bounds that keep both answering."""
