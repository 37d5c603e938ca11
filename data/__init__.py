"""The bundled sample corpus; ``README.md`` beside this file says what it is."""
