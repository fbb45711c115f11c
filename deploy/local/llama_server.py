"""The child process that is the model server: `python -m turnstream.deploy.local.llama_server`.

Serves until SIGTERM or SIGINT; logs to standard error. `/metrics` names its gauges `llamacpp:…`.
"""

from __future__ import annotations

import argparse
import signal

_CONTEXT_TOKENS = 2048  # of one stream; the model was trained for no more
_STREAMS = 4


def main() -> None:
    """Load the weights and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="path of a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True, help="what the API calls the model")
    arguments = parser.parse_args()
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)  # before the server's threads inherit the mask
    import xllamacpp  # noqa: PLC0415 - loads code for this CPU

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.weights
    parameters.model_alias = {arguments.name}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = arguments.port
    parameters.n_parallel = _STREAMS
    parameters.n_ctx = _CONTEXT_TOKENS * _STREAMS
    parameters.endpoint_metrics = True
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    signal.sigwait(stop)
    del server  # its destructor ends the streams and joins the threads


if __name__ == "__main__":
    main()
