"""Prediction over HTTP: a page, a JSON interface, and the limits of both."""
