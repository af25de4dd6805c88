"""The recipes that made assets/models, in order; `import_module(RECIPES[name]).train(**settings)` runs one."""

RECIPES: dict[str, str] = {
    name: f"workbench.training.{name.replace('-', '_')}"
    for name in ("world", "vae", "text", "pool", "unet", "dit", "scorer", "simpool", "judge", "decoder", "student",
                 "adapters", "evaluate", "var-vq",
                 "var", "var-decoder", "var-evaluate")
} | {f"gpu{name}": f"workbench.training.gpu{name.replace('-', '_')}" for name in
     ("", "-vae", "-scorer", "-judge", "-unet", "-evaluate", "-install")}  # fmt: skip
