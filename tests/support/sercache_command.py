"""Runs ``sercache`` as if it were the command itself."""

from sercache.cli.main import main

if __name__ == "__main__":
    main()
