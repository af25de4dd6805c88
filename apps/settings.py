"""Settings that outlive the page: kept in the browser, named presets, and links."""

from typing import Any

import gradio as gr

from apps import recipe as recipes
from apps.pages.generate import Generate
from apps.panels import trouble
from workbench.core.errors import WorkbenchError

#: Fixed, so that what a browser keeps survives a restart of the app. Not a secret: it keeps nobody out.
STORAGE, SECRET = "workbench.settings.1", "diffusion-workbench"
MOST_PRESETS = 50
_COPY = """(text) => { const url = location.origin + location.pathname + '?recipe=' + text;
if (text && navigator.clipboard) navigator.clipboard.writeText(url).catch(() => 0); return text ? url : ''; }"""


class Settings:
    """The browser's store and its handlers."""

    def __init__(self, demo: gr.Blocks, generate: Generate) -> None:
        self.demo, self.page = demo, generate
        self.kept = gr.BrowserState({"last": None, "presets": {}}, storage_key=STORAGE, secret=SECRET)

    def connect(self) -> None:
        """Attach the handlers."""
        # queued, not at once: only then does Gradio tell the page that a state changed, which redraws forms and stack
        page, quiet = self.page, {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
        self.demo.load(self.load, [self.kept], [*page.outputs, page.stage, page.preset], **quiet)  # type: ignore[arg-type]
        gr.on(
            [page.go.click, page.prompt.blur, page.stack.version.change, page.picker.name.change, page.model.change],
            self.remember,
            [self.kept, *page.inputs],
            [self.kept],
            **quiet,
        )  # type: ignore[arg-type]
        page.save.click(self.save, [self.kept, page.preset, *page.inputs], [self.kept, page.preset], **quiet)  # type: ignore[arg-type]
        page.drop.click(self.delete, [self.kept, page.preset], [self.kept, page.preset], **quiet)  # type: ignore[arg-type]
        page.preset.input(self.choose, [self.kept, page.preset], page.outputs, **quiet)  # type: ignore[arg-type]
        page.link.click(self.link, page.inputs, [page.link_text], **quiet).then(  # type: ignore[arg-type]
            lambda text: gr.Textbox(text, visible=bool(text)), [page.link_text], [page.link_text], js=_COPY, **quiet
        )  # type: ignore[arg-type]

    def load(self, kept: Any, request: gr.Request) -> list[Any]:
        """On opening the page: the link's settings, else the last ones, else what stands there."""
        presets = gr.Dropdown(choices=sorted(self._presets(kept)), value=None)
        asked = dict(request.query_params or {}).get("recipe")
        skip = [gr.skip()] * len(self.page.outputs)
        try:
            if asked:
                return [*self.page.spread(recipes.unpacked(asked)), gr.skip(), presets]
            last = kept.get("last") if isinstance(kept, dict) else None
            if last:
                return [*self.page.spread(recipes.checked(last)), gr.skip(), presets]
        except WorkbenchError as error:
            return [*skip, trouble(str(error)) if asked else gr.skip(), presets]
        return [*skip, gr.skip(), presets]

    def remember(self, kept: Any, *values: Any) -> dict[str, Any]:
        """The store with these settings as the last ones."""
        return {"presets": self._presets(kept), "last": recipes.plain(self.page.gather(*values))}

    def save(self, kept: Any, name: str | None, *values: Any) -> tuple[Any, Any]:
        """The store with a preset more."""
        name, presets = (name or "").strip()[:60], self._presets(kept)
        if not name:
            gr.Warning("Write a name for the preset first.")
            return gr.skip(), gr.skip()
        if len(presets) >= MOST_PRESETS and name not in presets:
            gr.Warning(f"{MOST_PRESETS} presets are kept at most. Delete one first.")
            return gr.skip(), gr.skip()
        presets[name] = recipes.plain(self.page.gather(*values))
        return {**self._store(kept), "presets": presets}, gr.Dropdown(choices=sorted(presets), value=name)

    def delete(self, kept: Any, name: str | None) -> tuple[Any, Any]:
        """The store without a preset."""
        presets = self._presets(kept)
        presets.pop(name or "", None)
        return {**self._store(kept), "presets": presets}, gr.Dropdown(choices=sorted(presets), value=None)

    def choose(self, kept: Any, name: str | None) -> list[Any]:
        """A preset's settings; a name that is not one yet changes nothing."""
        found = self._presets(kept).get(name or "")
        try:
            return self.page.spread(recipes.checked(found)) if found else [gr.skip()] * len(self.page.outputs)
        except WorkbenchError as error:
            gr.Warning(str(error))
            return [gr.skip()] * len(self.page.outputs)

    def link(self, *values: Any) -> str:
        """The text of a link with these settings."""
        try:
            return recipes.packed(self.page.gather(*values))
        except WorkbenchError as error:
            gr.Warning(str(error))
            return ""

    @staticmethod
    def _store(kept: Any) -> dict[str, Any]:
        return dict(kept) if isinstance(kept, dict) else {"last": None}

    @staticmethod
    def _presets(kept: Any) -> dict[str, Any]:
        found = kept.get("presets") if isinstance(kept, dict) else None
        return {str(k)[:60]: v for k, v in list(found.items())[:MOST_PRESETS]} if isinstance(found, dict) else {}
