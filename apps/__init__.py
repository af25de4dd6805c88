"""The app: one Gradio face on the workbench, built from the catalog.

Gradio reads its environment while it is imported, so what keeps it quiet is set here, before anything else.
"""

import os

from workbench.core.places import CACHE

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.setdefault("GRADIO_TEMP_DIR", str(CACHE / "app"))
