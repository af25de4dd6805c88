"""The whole app, built from the catalog: `build()` returns Gradio blocks, `launch_options()` how to serve them."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from apps import theme, topics
from apps.desk import Desk
from apps.pages.compare import Compare
from apps.pages.gallery import Gallery
from apps.pages.generate import Generate
from apps.pages.grid import Grid
from apps.pages.inspect import Inspect
from apps.pages.methods import methods_page
from apps.rendering import settle
from apps.settings import Settings
from workbench.core.catalog import catalog
from workbench.runs.execute import OUTPUTS
from workbench.runs.shelf import has_default

#: Pillow warns at this many pixels and refuses twice as many, before anything is decoded.
MOST_PIXELS = 32_000_000


def build(models: Path | str | None = None, *, root: Path | str | None = None, public: bool = False) -> gr.Blocks:
    """The app's blocks, with their desk as `.desk`.

    `models` is a folder of models to list, `root` where runs are kept (`outputs/app`); `public` says that strangers
    may come, so that files of this computer are not offered as models.
    """
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    catalog()
    folder = Path(models).expanduser() if models else None
    desk = Desk(Path(root) if root else OUTPUTS / "app", folder, public)
    with gr.Blocks(
        title="Diffusion Workbench", analytics_enabled=False, fill_width=True, delete_cache=(600, 86_400)
    ) as demo:
        _header()
        with gr.Tabs(elem_id="pages") as tabs:
            with gr.Tab("Generate", id="generate"):
                generate = Generate(desk, demo, has_default())
            with gr.Tab("Compare", id="compare"):
                compare = Compare(desk, generate)
            with gr.Tab("Grid", id="grid"):
                grid = Grid(desk, generate)
            with gr.Tab("Inspect", id="inspect"):
                inspect = Inspect(desk, demo, generate)
            with gr.Tab("Gallery", id="gallery") as gallery_tab:
                gallery = Gallery(desk, generate)
            for module in _topics():
                with gr.Tab(module.TITLE, id=module.__name__.rpartition(".")[2]):
                    module.page(desk, demo, generate)
            with gr.Tab("Methods", id="methods"):
                methods_page(demo)
        generate.connect(tabs)
        compare.connect()
        grid.connect()
        inspect.connect()
        gallery.connect(tabs, gallery_tab)
        Settings(demo, generate).connect()
        for detail in (generate.detail, gallery.detail):
            _send(detail, tabs, generate, compare, inspect)
    settle(demo)
    demo.desk = desk  # type: ignore[attr-defined]
    return demo


def launch_options() -> dict[str, Any]:
    """What `launch` takes besides address and middleware.

    `_frontend=False` leaves the page as it is and skips one thing: a request to itself that gives a busy machine three
    seconds to answer and ends the start otherwise.
    """
    return {
        "theme": theme.theme(),
        "css": theme.CSS,
        "head": theme.SCRIPT,
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "share": False,
        "show_error": True,
        "ssr_mode": False,
        "max_file_size": "20mb",
        "_frontend": False,
    }


def _header() -> None:
    with gr.Row(elem_id="top"):
        gr.HTML(
            "<h1>Diffusion Workbench</h1><p>Stack published methods on one image model, look inside, compare.</p>",
            elem_id="brand",
        )
        switch = gr.Button("Light / dark", size="sm", scale=0, elem_id="theme-switch")
        switch.click(None, None, None, js=theme.SWITCH_THEME, api_visibility="private")


def _topics() -> list[Any]:
    found = [info.name for info in pkgutil.iter_modules(topics.__path__)]
    return sorted((importlib.import_module(f"{topics.__name__}.{name}") for name in found), key=lambda m: m.TITLE)


def _send(detail: Any, tabs: gr.Tabs, generate: Generate, compare: Compare, inspect: Inspect) -> None:
    """The buttons that carry a picked picture to another page."""
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    detail.restore.click(generate.restore, [detail.picked], generate.restored(tabs), **quiet)
    detail.start.click(generate.start_from, [detail.picked], [*generate.origin, tabs], **quiet)
    detail.left.click(compare.take, [detail.picked], [compare.left, tabs], **quiet)
    detail.right.click(compare.take, [detail.picked], [compare.right, tabs], **quiet)
    detail.inspect.click(inspect.take, [detail.picked], [*inspect.outputs, tabs], **quiet)
