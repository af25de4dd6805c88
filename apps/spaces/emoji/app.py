"""A Space: the app on all interfaces, behind the proxy of Hugging Face, which checks the host name."""

import os

os.environ.setdefault("GRADIO_SSR_MODE", "false")

from apps.app import main

main("0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
