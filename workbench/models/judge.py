"""The judge of the emoji world: which object, if any, is in each cell of an 8x8 grid, and what the whole picture shows.

It was trained on every object and style, those held out from the generator and the scorer included.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 8


@dataclass(frozen=True)
class Verdict:
    """Logits; the last class of each is "none". cells [B, O+1, 8, 8], objects [B, O+1], styles [B, S+1]."""

    cells: Tensor
    objects: Tensor
    styles: Tensor


@dataclass(frozen=True)
class JudgeConfig:
    """The classes in order, and the width of the coarsest level."""

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    width: int = 192


class Block(nn.Module):
    """Two normalised convolutions around a skip, halving the side first when asked."""

    def __init__(self, given: int, width: int, halve: bool = False) -> None:
        super().__init__()
        self.enter = nn.Conv2d(given, width, 3, 2 if halve else 1, 1) if halve or given != width else nn.Identity()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.before, self.between = nn.GroupNorm(8, width), nn.GroupNorm(8, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [B, width, H, W], or half as high and wide."""
        x = self.enter(x)
        return x + self.second(F.silu(self.between(self.first(F.silu(self.before(x))))))


class Judge(nn.Module):
    """A small convolutional net that looks at 64 px: pictures [B, 3, H, W] in -1..1, H and W multiples of 64."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        width, objects = config.width, len(config.objects) + 1
        self.stem = nn.Conv2d(3, width // 8, 3, padding=1)
        self.trunk = nn.Sequential(
            Block(width // 8, width // 4, halve=True),
            Block(width // 4, width // 2, halve=True),
            Block(width // 2, width, halve=True),
            Block(width, width),
        )
        self.norm = nn.GroupNorm(8, width)
        self.cells = nn.Conv2d(width, objects, 1)
        self.objects, self.styles = nn.Linear(2 * width, objects), nn.Linear(2 * width, len(config.styles) + 1)

    def forward(self, pictures: Tensor) -> Verdict:
        """Judge pictures of any size; they are averaged or stretched to 64 px first."""
        if pictures.shape[-1] == 2 * 64 == pictures.shape[-2]:
            small = F.avg_pool2d(pictures, 2)
        else:
            small = F.interpolate(pictures, (64, 64), mode="bilinear", antialias=True, align_corners=False)
        seen = F.silu(self.norm(self.trunk(self.stem(small))))
        whole = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)
        return Verdict(self.cells(seen), self.objects(whole), self.styles(whole))

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (fp16)."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": "Judge", **asdict(self.config)}
        (path / "config.json").write_text(json.dumps(config, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file({k: v.detach().half().contiguous() for k, v in self.state_dict().items()}, path / "model.safetensors")

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> Judge:
        """Read a folder written by `save`, in evaluation mode."""
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        with torch.device("meta"):  # first weights would be drawn from the global generator, for nothing
            model = cls(JudgeConfig(tuple(config["objects"]), tuple(config["styles"]), config["width"]))
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"), assign=True)
        return model.to(dtype).eval()
