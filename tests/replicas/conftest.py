"""Let the tests of replication import their sites."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
