"""Serve the app: on this computer alone unless asked otherwise, quietly, and behind the guard."""

import os
import socket
from pathlib import Path
from typing import Any

from apps.guard import Guard
from apps.studio import build, launch_options
from workbench.core.errors import AskError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(host: str = "127.0.0.1", port: int = 7860, models: Path | str | None = None) -> None:
    """Serve until interrupted. Raises `AskError` when the port is taken or the environment is unsafe."""
    demo, options = prepare(host, port, models)
    _free(host, port)
    print(f"Diffusion Workbench on http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}", flush=True)  # noqa: T201
    if host not in LOOPBACK and not on_spaces():
        print("Everyone who reaches this address can use the app: it has no passwords.", flush=True)  # noqa: T201
    try:
        demo.launch(**options)
    finally:
        demo.desk.jobs.close()


def prepare(
    host: str, port: int, models: Path | str | None = None, root: Path | str | None = None
) -> tuple[Any, dict[str, Any]]:
    """The blocks, and the options to launch them with."""
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise AskError("GRADIO_VIBE_MODE is set, which lets visitors change code. Unset it and start again.")
    public = on_spaces() or host not in LOOPBACK
    demo: Any = build(models, root=root, public=public)
    named = ",".join(os.environ.get(name, "") for name in ("WORKBENCH_HOSTS", "SPACE_HOST"))
    hosts = [host, *filter(None, map(str.strip, named.split(",")))]
    guard = _middleware(hosts, any_host=on_spaces())
    demo.queue(max_size=128, default_concurrency_limit=32)
    options = {
        "server_name": host,
        "server_port": port,
        "quiet": True,
        "app_kwargs": {"middleware": [guard]},
        "allowed_paths": [str(demo.desk.root)],
        **launch_options(),
    }
    return demo, options


def on_spaces() -> bool:
    """Whether this is a Hugging Face Space, whose proxy answers for the host name."""
    return bool(os.environ.get("SPACE_ID"))


def _middleware(hosts: list[str], any_host: bool) -> Any:
    from starlette.middleware import Middleware

    return Middleware(Guard, hosts=[name.lower() for name in hosts], any_host=any_host)


def _free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AskError(f"{host}:{port} cannot be used ({error.strerror}). Give another with --port.") from None


if __name__ == "__main__":
    main("0.0.0.0" if on_spaces() else "127.0.0.1", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
