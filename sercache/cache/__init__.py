"""Feature sets on disk: fingerprint, shard format, store, writer, verification."""
