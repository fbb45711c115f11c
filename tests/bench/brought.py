"""The template's graph as somebody brings it: named in a langgraph.json, run by our worker.

`BENCH_MODEL_URL` names the model server, in the worker and, for states, in the edge.
"""

import os

from tests.bench.template import build

graph = build(os.environ["BENCH_MODEL_URL"], None)
