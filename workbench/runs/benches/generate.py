"""Our loop against the plain diffusers pipeline on the same files: one picture, default steps, with guidance."""

import time
from collections.abc import Mapping
from typing import cast

from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.method import Sampler
from workbench.models.reference import reference
from workbench.runs.bench import Options, Way, timed_seams
from workbench.runs.verbs import load, sample

PROMPT = "a flat emoji of a cat on a white background"


def bench(options: Options) -> tuple[Bundle, dict[str, Way]]:
    """Plain pipeline, our loop, and our loop drawing four at once; shares of the time in network and decoder."""
    device = "cuda" if options.tier == "gpu" else "cpu"
    bundle = load(options.model, models=options.models, device=device, dtype=options.dtype)
    sampler = cast(Sampler, method("diffuse", steps=options.steps))
    settings = {"steps": options.steps, "guidance": 5.0, "pictures": 1}
    plain = reference(bundle, steps=options.steps, guidance=settings["guidance"])

    def diffusers() -> Mapping[str, float]:
        plain(Ask(prompts=[PROMPT], seeds=[0]))
        return {}

    def ours(count: int) -> Mapping[str, float]:
        sample(bundle, [PROMPT] * count, seeds=range(count), sampler=sampler)
        return {}

    def shares() -> Mapping[str, float]:
        began = time.perf_counter()
        with timed_seams(bundle) as spent:
            ours(1)
        whole = time.perf_counter() - began
        return {"unet_share": spent["predict"] / whole, "decode_share": spent["decode"] / whole}

    return bundle, {
        "diffusers": Way(diffusers, settings),
        "workbench": Way(lambda: ours(1), settings, "diffuse"),
        "workbench, timed inside": Way(shares, settings, "diffuse"),
        "workbench, four at once": Way(lambda: ours(4), {**settings, "pictures": 4}, "diffuse"),
    }
