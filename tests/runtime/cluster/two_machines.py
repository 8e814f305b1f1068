"""A Ray cluster of two machines with a core each, all in processes of this one, until standard input ends.

Prints its address when it is there.
"""

import sys

from ray.cluster_utils import Cluster

MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20}

cluster = Cluster(initialize_head=True, head_node_args={**MACHINE, "include_dashboard": False})
cluster.add_node(**MACHINE)
print(cluster.address, flush=True)  # noqa: T201 # for the test that started this
sys.stdin.read()
cluster.shutdown()
