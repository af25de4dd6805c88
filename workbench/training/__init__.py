"""The recipes that made assets/models, in order; `import_module(RECIPES[name]).train(**settings)` runs one."""

RECIPES: dict[str, str] = {
    name: f"workbench.training.{name}"
    for name in ("world", "vae", "text", "pool", "unet", "scorer", "judge", "decoder", "evaluate")
}
