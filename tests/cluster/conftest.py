"""A Ray cluster of two nodes, simulated on this machine, and commands that run on it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import soundfile

from support.processes import environment


@dataclass
class Nodes:
    """Two nodes with two cores each beside a head that has none."""

    cluster: Any
    workers: list[Any] = field(default_factory=list)

    @property
    def address(self):
        return self.cluster.address

    def add(self):
        self.workers.append(self.cluster.add_node(num_cpus=2, object_store_memory=80 << 20))

    def kill_one(self):
        """SIGKILL to the whole node."""
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)


@pytest.fixture
def nodes(monkeypatch):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    found = Nodes(cluster)
    try:
        found.add()
        found.add()
        yield found
    finally:
        cluster.shutdown()


@pytest.fixture
def manifest(tmp_path):
    """A corpus of 40 clips of 1 to 3 s of noise."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(40):
        seconds = float(generator.uniform(1, 3))
        soundfile.write(
            tmp_path / f"{number}.wav", 0.1 * generator.normal(size=int(16_000 * seconds)), 16_000
        )
        rows.append(f"{number},{number}.wav")
    path = tmp_path / "corpus.csv"
    path.write_text("\n".join(["id,audio", *rows]))
    return path
