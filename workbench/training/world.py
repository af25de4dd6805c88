"""Make assets/world from the unpacked npm packages: the drawings, their names, and the split fixed before training."""

from __future__ import annotations

import io
import json
import lzma
import random
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

from PIL import Image

from workbench.core.places import ASSETS

SETS = {  # style -> (package folder, credit)
    "flat": ("iconify-json-fluent-emoji-flat", "Fluent Emoji, Microsoft Corporation, MIT"),
    "noto": ("iconify-json-noto", "Noto Emoji, Google Inc, Apache-2.0"),
    "blob": ("iconify-json-noto-v1", "Noto Emoji (2013-2017), Google Inc, Apache-2.0"),
    "twemoji": ("iconify-json-twemoji", "Twemoji, Twitter and contributors, CC-BY-4.0"),
    "ink": ("iconify-json-fluent-emoji-high-contrast", "Fluent Emoji High Contrast, Microsoft Corporation, MIT"),
    "emojione": ("iconify-json-emojione", "EmojiOne 2 (EmojiTwo), Emoji One and contributors, CC-BY-4.0"),
}
SOLID = ("lobehub-fluent-emoji-3d", "Fluent Emoji 3D, Microsoft Corporation, MIT")
STYLES = ("flat", "noto", "blob", "twemoji", "ink", "3d", "emojione")
GROUPS = {0: "smileys", 3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects"}
EVERYDAY = (
    "cat face", "dog face", "red apple", "banana", "pizza", "hamburger", "automobile", "rocket", "airplane",
    "bicycle", "sunflower", "house", "red heart", "crown", "guitar",
)  # fmt: skip
# tags that say a mood, an occasion or a part rather than the thing
VAGUE = frozenset(
    re.findall(
        r"\w+",
        """
        action bestest blush board cabbie caught cheese class close country cover cracked cut decorated
        decorative diet document driving facing family fresh frame frowning glad gross guard headache health
        hoop horrible job lady list lowered man media million moo museum outdoors pay potassium ranch ripe
        settle shiny showing simple slice strat tooth satisfied yikes
        """,
    )
)


def slug(label: str) -> str:
    """Spell a label the way the icon sets name their icons."""
    text = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower().replace("&", "and")
    return re.sub("[^a-z0-9]+", "-", text).strip("-")


def listed(packages: Path) -> tuple[list[dict], dict[str, dict]]:
    """List the emoji drawn by every set, in emojibase order, and the sets themselves by style."""
    sets = {s: json.loads((packages / p / "package" / "icons.json").read_text()) for s, (p, _) in SETS.items()}
    data = json.loads((packages / "emojibase-data" / "package" / "en" / "data.json").read_text())
    found = []
    for entry in sorted((e for e in data if "order" in e), key=lambda e: e["order"]):
        label = entry["label"]
        plain = "\u2019" not in label and "'" not in label
        if entry.get("group") in GROUPS and plain and all(slug(label) in s["icons"] for s in sets.values()):
            found.append(entry)
    return found, sets


def split(entries: list[dict], seed: int = 2026) -> dict:
    """Draw what base training never sees, and list what the CPU tier trains on."""
    draw = random.Random(seed)
    labels = [e["label"] for e in entries]
    plain = [e["label"] for e in entries if e["group"] != 0 and len(e["label"].split()) == 1]
    held = sorted(draw.sample([name for name in plain if name not in EVERYDAY], 20), key=labels.index)
    kept = [name for name in labels if name not in held]
    pairs = [[name, style] for name in kept for style in STYLES if style != "emojione"]
    out = sorted(draw.sample(range(len(pairs)), round(0.05 * len(pairs))))
    cpu = kept[::11][:65]
    extra = [name for name in EVERYDAY if name not in cpu]
    return {
        "seed": seed,
        "held_out_styles": ["emojione"],
        "held_out_objects": held,
        "held_out_pairs": [pairs[i] for i in out],
        "cpu": cpu,
        "cpu_extra": extra,
        "erase": erasure(cpu + extra, seed),
    }


def erasure(tier: list[str], seed: int) -> dict:
    """Draw the order in which objects and styles are taken as targets of erasure."""
    draw = random.Random(f"erase {seed}")
    return {"objects": draw.sample(tier, 20), "styles": draw.sample([s for s in STYLES if s != "emojione"], 3)}


def synonyms(entries: list[dict], tier: list[str], most: int = 4) -> dict[str, list[str]]:
    """Choose for each label the tags that say it and, within the training list, nothing else."""
    labels = {e["label"].lower() for e in entries}
    shared = Counter(tag for e in entries for tag in e.get("tags", []))
    inside = Counter(tag for e in entries if e["label"] in tier for tag in e.get("tags", []))
    chosen = {}
    for entry in entries:
        label, words = entry["label"], []
        if label.endswith(" face") and entry["group"] == 3:
            words.append(label.removesuffix(" face"))
        for tag in entry.get("tags", []):
            own = tag in label.lower().split()
            alone = inside[tag] <= 1 and shared[tag] <= (3 if own else 2)
            new = tag not in labels and tag not in words and tag not in VAGUE
            if alone and new and re.fullmatch("[a-z][a-z -]{2,}", tag):
                words.append(tag)
        # words of the label itself first: "taxi" says "oncoming taxi" better than "hail" does
        words.sort(key=lambda word: word not in label.lower().split())
        chosen[label] = words[:most]
    return chosen


def solid(packages: Path, entry: dict, quality: int) -> bytes:
    """Re-encode one 3D drawing at 128 px."""
    folder = packages / SOLID[0] / "package" / "assets"
    code = entry["hexcode"].lower()
    names = [code, code.replace("-fe0f", ""), code + "-fe0f"]
    path = next(folder / f"{name}.webp" for name in names if (folder / f"{name}.webp").exists())
    with Image.open(path) as picture:
        small = picture.convert("RGBA").resize((128, 128), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def train(packages: str = "packages", out: str = "", quality: int = 85, seed: int = 2026) -> dict:
    """Write assets/world from the folder `packages` that holds the unpacked npm packages; return what was counted."""
    source, folder = Path(packages), Path(out) if out else ASSETS / "world"
    folder.mkdir(parents=True, exist_ok=True)
    entries, sets = listed(source)
    parts = split(entries, seed)
    words = synonyms(entries, parts["cpu"] + parts["cpu_extra"])
    things = [
        {"name": slug(e["label"]), "label": e["label"], "synonyms": words[e["label"]], "group": GROUPS[e["group"]],
         "code": e["hexcode"], "order": e["order"]}
        for e in entries
    ]  # fmt: skip
    for style, data in sets.items():
        icons = {t["name"]: {k: v for k, v in data["icons"][t["name"]].items() if k != "hidden"} for t in things}
        text = json.dumps({"width": data["width"], "height": data["height"], "icons": icons}, separators=(",", ":"))
        (folder / f"{style}.json.xz").write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    with zipfile.ZipFile(folder / "3d.zip", "w", zipfile.ZIP_STORED) as packed:
        for thing, entry in zip(things, entries, strict=True):
            member = zipfile.ZipInfo(f"{thing['name']}.webp", (2026, 1, 1, 0, 0, 0))
            packed.writestr(member, solid(source, entry, quality))
    rows = ",\n".join(json.dumps(t, ensure_ascii=False) for t in things)
    (folder / "objects.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    (folder / "split.json").write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    credit = {style: SETS[style][1] if style in SETS else SOLID[1] for style in STYLES}
    credit["names"] = "emojibase-data, Miles Johnson, MIT"
    (folder / "licences.json").write_text(json.dumps(credit, indent=1) + "\n", encoding="utf-8")
    return {"objects": len(things), "bytes": sum(p.stat().st_size for p in folder.iterdir())}
