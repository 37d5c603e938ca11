"""Transcripts: what was said, heard by a Whisper model, as a column of the manifest."""
