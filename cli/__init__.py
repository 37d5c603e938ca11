"""The command line: each module parses one command, calls the library, and shows what came back."""
