"""`audio2img app`: a page to play with."""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import tempfile
import threading
from typing import Any

from .common import add_device_arguments, add_model_arguments, quiet_libraries

HELP = "Serve a page on which sounds are heard, drawn and filmed, and its API."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: the network too (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=7860, help="to listen on (default: 7860)")
    parser.add_argument("--share", action="store_true", help="also at a public address, through Gradio's servers")
    parser.add_argument(
        "--max-seconds", type=float, default=60.0, metavar="S", help="of sound in a request (default: 60)"
    )
    parser.add_argument(
        "--max-megabytes", type=float, default=50.0, metavar="MB", help="of a file that is uploaded (default: 50)"
    )
    add_model_arguments(parser)
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load the models once, serve until stopped."""
    for name in ("max_seconds", "max_megabytes"):
        value = getattr(arguments, name)
        if not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value:g}")
    if not 1 <= arguments.port <= 65535:
        raise ValueError(f"--port must be between 1 and 65535, not {arguments.port}")
    _check_free(arguments.host, arguments.port)
    quiet_libraries()
    try:
        from ..app.server import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError('the page needs Gradio: pip install "audio2img[app]"') from error
    from ..app.studio import Limits, Studio
    from ..generation.pipeline import AudioToImagePipeline

    pipeline = AudioToImagePipeline.from_pretrained(
        arguments.encoder, arguments.diffusion, device=arguments.device, dtype=arguments.dtype
    )
    studio = Studio(pipeline, limits=Limits(seconds=arguments.max_seconds, megabytes=arguments.max_megabytes))
    stopped = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopped.set())
    page: Any = None
    # Gradio would keep uploads under names that another page of this machine gives the same sounds, and removes.
    uploads = tempfile.TemporaryDirectory(prefix="audio2img-uploads-")
    os.environ.setdefault("GRADIO_TEMP_DIR", uploads.name)
    try:
        page, address = serve(studio, host=arguments.host, port=arguments.port, share=arguments.share)
        print(f"audio2img: {address} (stop with Ctrl-C)", flush=True)
        stopped.wait()
    finally:
        studio.close()  # first: who still waits is told so by the page
        if page is not None:
            page.close(verbose=False)
        uploads.cleanup()
    return 0


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before the models are loaded.

    Raises:
        ValueError: it is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"--host {host} --port {port}: {error.strerror or error}; choose another --port"
            ) from error
