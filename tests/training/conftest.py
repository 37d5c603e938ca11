"""The tests of training share one builder of small runs; importlib mode needs its folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
