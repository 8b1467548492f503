"""llama.cpp's own HTTP server from the wheel `xllamacpp`, with the options of its program that are used here.

python bench/llama_server.py -m FILE.gguf --port N --threads N --parallel N --ctx-size N
"""

from __future__ import annotations

import argparse
import threading


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model", required=True)
    for name in ("port", "threads", "parallel", "ctx-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames, params.port = ["127.0.0.1"], given.port
    params.n_parallel, params.n_ctx = given.parallel, given.ctx_size
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.n_gpu_layers, params.use_jinja = 0, True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
