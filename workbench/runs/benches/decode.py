"""What the engine of next-scale decoding gains over the same thing written plainly, on random weights.

    workbench bench --topic decode --out assets/benchmarks

The plain loop concatenates keys and values as they come, works out AdaLN in every block at every scale, sorts the whole
vocabulary and draws by `torch.multinomial`; engine and plain loop draw the same tokens in float32. Both are taken in
turns in one run, without the autoencoder. On a CPU: a tiny model (depth 6, 64 px) in float32 and bfloat16. With
--tier gpu: d16 and d30 at 256 px, batches of 1, 8 and 64, the plain loop under autocast, the engine on half weights,
with its share of what memory and arithmetic of an H200 allow.
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from workbench.blocks import scales
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.tape import ignore
from workbench.models.var import MultiScaleVQ, VARTransformer, plain
from workbench.models.var.bundle import from_parts
from workbench.runs.bench import Options, Way, measure
from workbench.runs.environment import environment

#: Issue's goals: how many times faster than the plain loop, by (model, pictures at once).
GOALS = {("d6", 1): 1.5, ("d16", 1): 5.0, ("d30", 1): 2.5, ("d16", 64): 1.2, ("d30", 64): 1.2}
CODE_GOAL = 1.7
GUIDANCE, TOP_K, TOP_P = 1.5, 900, 0.96
#: What one H200 can do: bytes and half-precision operations a second.
BYTES, OPERATIONS = 4.8e12, 989e12
DEPTHS = {"cpu": (6,), "gpu": (16, 30)}
TINY: dict[str, Any] = {"patch_nums": (1, 2, 3, 4, 6, 8), "vocab_size": 1024, "latent_channels": 16}
BIG: dict[str, Any] = {"patch_nums": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "vocab_size": 4096, "latent_channels": 32}


def survey(options: Options, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Rows for every model and batch; `keep` gets them as they come."""
    if options.more:
        raise AskError(f"The benchmark of decode takes no settings; {next(iter(options.more))!r} was given.")
    if options.model:
        raise AskError("The benchmark of decode measures random weights of stated shapes; leave --model out.")
    gpu = options.tier == "gpu"
    device = torch.device("cuda" if gpu else "cpu")
    result: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for depth in DEPTHS[options.tier]:
        bundle = random_bundle(depth, BIG if gpu else TINY, device)
        for pictures in (1, 8, 64) if gpu else (1,):
            ways = gpu_ways(bundle, pictures) if gpu else cpu_ways(bundle, pictures)
            rows += measure(ways, options.repeats, device)
            result = {
                "schema": 1, "topic": "decode", "tier": options.tier, "made": datetime.now(UTC).date().isoformat(),
                "model": {"name": f"random weights, depth {depth}", "digest": bundle.digest},
                "environment": environment(bundle), "repeats": options.repeats, "against": "plain",
                "how": f"medians of {options.repeats} in turns, ratio to the plain loop of the same rows, without the "
                       "autoencoder", "rows": rows, "note": verdict(rows)}  # fmt: skip
            keep(result)
    return result


def random_bundle(depth: int, shape: Mapping[str, Any], device: torch.device, refiner: int = 0) -> Bundle:
    """A VAR of random weights (the same for every call) whose layers all matter; with a refiner of another depth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vq: Any = MultiScaleVQ(**shape, channels=32, channel_mult=(1, 1, 1, 1), layers_per_block=1, norm_groups=8)
        nets: list[Any] = [VARTransformer(depth=d, **shape) for d in (depth, refiner) if d]
        for net in nets:
            net.initialise(gamma=0.5, head=1.0)
    drafter, *rest = (net.to(device) for net in nets)
    second = rest[0] if rest else None
    return from_parts(vq.to(device), drafter, refiner=second, name=f"d{depth}", digest=f"random-{depth}-{refiner}")


def engine(bundle: Bundle, pictures: int, split: int = 0) -> Callable[[], torch.Tensor]:
    """Draw once with the engine; from scale `split` on with the bundle's refiner."""
    ask = Ask(prompts=["class:7"] * pictures, seeds=list(range(pictures)))
    grids = scales.own_grids(bundle)

    def once() -> torch.Tensor:
        memory = scales.Memory(grids, 2 * pictures)
        turns = [scales.turn(bundle, ask, memory, True)]
        if split:
            refiner = bundle.open("refiner")
            turns.append(scales.turn(refiner, ask, memory.handed(refiner.predict, 2 * pictures), True, start=split))
        run = scales.Descent(
            bundle, tuple(turns), scales.ramp(GUIDANCE, len(grids)), scales.Choice(TOP_K, TOP_P),
            scales.generators(bundle, ask), ignore)  # fmt: skip
        return scales.descend(run, scales.blank(bundle, pictures, grids[-1]))

    return once


def plainly(bundle: Bundle, pictures: int, half: torch.dtype | None = None) -> Callable[[], torch.Tensor]:
    """Draw once with the plain loop, under autocast where `half` says so."""
    vq: Any = bundle.parts["vq"]
    net: Any = bundle.parts["var"]
    ask = Ask(prompts=["class:7"] * pictures, seeds=list(range(pictures)))

    def once() -> torch.Tensor:
        rows = net.class_emb.weight[[7] * pictures]
        cond = torch.cat([net.null().expand(pictures, -1), rows])
        context = torch.autocast(bundle.device.type, half) if half is not None else nullcontext()
        with context:
            draws = list(scales.generators(bundle, ask))
            return plain.decode(
                vq, net, cond, guidance=GUIDANCE, top_k=TOP_K, top_p=TOP_P, generators=draws)[0]  # fmt: skip

    return once


def halved(bundle: Bundle, dtype: torch.dtype) -> Bundle:
    """The same transformer with weights of half the width."""
    vq: Any = bundle.parts["vq"]
    net: Any = torch.nn.Module.to(copy.deepcopy(bundle.parts["var"]), dtype)
    return from_parts(vq, net, name=bundle.name, digest=bundle.digest)


def cpu_ways(bundle: Bundle, pictures: int) -> dict[str, Way]:
    """Plain loop and engine in float32, and both in bfloat16 (the loop under autocast)."""
    half = torch.bfloat16
    return _ways(bundle, pictures, {
        "plain": plainly(bundle, pictures), "engine": engine(bundle, pictures),
        "plain, bfloat16": plainly(bundle, pictures, half), "engine, bfloat16": engine(halved(bundle, half), pictures),
    })  # fmt: skip


def gpu_ways(bundle: Bundle, pictures: int) -> dict[str, Way]:
    """The plain loop under autocast and the engine on half weights; of d30 also with a d16 from scale 8 on."""
    half = torch.float16
    ways = {"plain": plainly(bundle, pictures, half), "engine": engine(halved(bundle, half), pictures)}
    if bundle.name == "d30":
        pair = random_bundle(30, BIG, bundle.device, refiner=16)
        both = halved(pair, half)
        small = halved(pair.open("refiner"), half)
        ways["code, split 8"] = engine(replace(both, opener=lambda name: small), pictures, split=8)
    return _ways(bundle, pictures, ways)


def _ways(bundle: Bundle, pictures: int, found: Mapping[str, Callable[[], torch.Tensor]]) -> dict[str, Way]:
    settings = {"model": bundle.name, "pictures": pictures, "guidance": GUIDANCE, "top_k": TOP_K, "top_p": TOP_P}
    floor = floor_seconds(bundle, pictures) if bundle.device.type == "cuda" else 0.0

    def timed(draw: Callable[[], torch.Tensor]) -> Callable[[], Mapping[str, float]]:
        def once() -> Mapping[str, float]:
            cpu, began = time.process_time(), time.perf_counter()
            draw()
            if not floor:
                return {"cpu_seconds": time.process_time() - cpu}
            torch.cuda.synchronize()
            spent = time.perf_counter() - began
            return {"images_per_second": pictures / spent, "share_of_floor": floor / spent}

        return once

    methods = {"engine": "var", "engine, bfloat16": "var", "code, split 8": "code"}
    prefix = f"{bundle.name} x{pictures} "
    return {prefix + name: Way(timed(draw), settings, methods.get(name, "")) for name, draw in found.items()}


def floor_seconds(bundle: Bundle, pictures: int) -> float:
    """The least that one H200 could take: weights read once a scale and arithmetic, AdaLN once, half precision.

    Operations: 24 C^2 a token and block, 4 C for each key that a token sees, 2 C V of the head; two rows a picture.
    """
    net: Any = bundle.parts["var"]
    C, depth, V = net.width, len(net.blocks), net.config.vocab_size
    counts = [h * w for h, w in net.grids]
    seen = sum(count * sum(counts[: k + 1]) for k, count in enumerate(counts))
    work = depth * (24 * C * C * sum(counts) + 4 * C * seen) + 2 * C * V * sum(counts)
    weights = 2 * (len(counts) * (12 * C * C * depth + C * V) + 6 * C * C * depth)
    return max(2 * pictures * work / OPERATIONS, weights / BYTES)


def verdict(rows: list[dict[str, Any]]) -> str:
    """What was asked for beside what was measured, in a line."""
    words: list[str] = []
    for row in rows:
        settings, name = row["settings"], row["name"].split(" ", 2)[2]
        if name.startswith("plain"):
            continue
        times = 1 / row["numbers"]["ratio"]
        goal = CODE_GOAL if name.startswith("code") else GOALS.get((settings["model"], settings["pictures"]))
        asked = "" if goal is None else f" of {goal} ({'reached' if times >= goal else 'missed'})"
        words.append(f"{row['name']}: {times:.2f} times as fast as the plain loop{asked}")
    return "; ".join(words) + "."
