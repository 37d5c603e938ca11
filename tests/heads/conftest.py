"""The tests of heads share their builders; importlib mode needs their folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
