"""The matrices of diffusers' attention and feed-forward modules as handles, by our names."""

from collections.abc import Mapping
from typing import Any

from workbench.core.bundle import Handle

OWN = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
#: Of a joint attention: the text's own projections.
TEXT = {"text_query": "add_q_proj", "text_key": "add_k_proj", "text_value": "add_v_proj", "text_out": "to_add_out"}


def attention(key: str, module: Any, names: Mapping[str, str] | None = None) -> dict[str, Handle]:
    """The projections of an attention at `part:path`, as far as it has them."""
    names = OWN | TEXT if names is None else names
    there = {path for path, child in module.named_modules() if getattr(child, "weight", None) is not None}
    return {
        ours: Handle(f"{key}.{theirs}.weight", module.get_submodule(theirs))
        for ours, theirs in names.items()
        if theirs in there
    }


def mlp(key: str, ff: Any) -> dict[str, Handle]:
    """`up`, `gate` where there is one, and `down` of a feed-forward at `part:path`."""
    first, last = ff.net[0].proj, ff.net[2]
    down = Handle(f"{key}.net.2.weight", last)
    inner = last.in_features
    name = f"{key}.net.0.proj.weight"
    if first.out_features == 2 * inner:  # gated: value rows first, then the gate's
        return {
            "up": Handle(name, first, rows=slice(0, inner)),
            "gate": Handle(name, first, rows=slice(inner, None)),
            "down": down,
        }
    return {"up": Handle(name, first), "down": down}
