"""The recipes that made assets/models; `import_module(RECIPES[name]).train(**settings)` runs or resumes one."""

RECIPES: dict[str, str] = {
    "world": "workbench.training.world",
    "vae": "workbench.training.vae",
    "scorer": "workbench.training.scorer",
    "unet": "workbench.training.unet",
    "judge": "workbench.training.judge",
    "evaluate": "workbench.training.evaluate",
}
