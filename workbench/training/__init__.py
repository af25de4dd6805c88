"""The recipes that made assets/models: `import_module(RECIPES[name]).train(**settings)` runs one, resuming where it stopped."""

RECIPES: dict[str, str] = {
    "world": "workbench.training.world",
    "vae": "workbench.training.vae",
    "scorer": "workbench.training.scorer",
    "unet": "workbench.training.unet",
    "judge": "workbench.training.judge",
    "evaluate": "workbench.training.evaluate",
}
