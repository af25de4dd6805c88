"""How a VAR draws, as diffusers saves it: the schedule of scales, guidance, cuts and temperature."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from workbench.blocks.scales import Choice, ramp


class VARScheduler(SchedulerMixin, ConfigMixin):
    """The settings of a run: `guidance` grows from nothing at the first scale to all of it at the last.

    `top_k` 0 and `top_p` 1 keep every token; `smooth` mixes codes instead of drawing one.
    """

    config_name = "scheduler_config.json"
    order = 1

    @register_to_config
    def __init__(
        self,
        *,
        patch_nums: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        guidance: float = 4.0,
        top_k: int = 0,
        top_p: float = 0.95,
        temperature: float = 1.0,
        smooth: bool = False,
    ) -> None:
        self.timesteps = list(range(len(patch_nums)))

    def scales(self, guidance: float | Sequence[float] | None, count: int, like: Tensor) -> list[float | Tensor]:
        """Guidance at every scale: a number, or one an image [B, 1, 1, 1]. Raises ValueError for a wrong count."""
        asked = self.config["guidance"] if guidance is None else guidance
        total = len(self.timesteps)
        if isinstance(asked, int | float):
            return list(ramp(float(asked), total))
        if len(asked) != count:
            raise ValueError(f"{len(asked)} guidance scales were given for {count} images.")
        each = like.new_tensor(list(asked)).view(-1, 1, 1, 1)
        return [1 + each * (k / max(total - 1, 1)) for k in range(total)]

    def choice(self, **changes: object) -> Choice:
        """The choice of tokens, with settings of this call where they are not None."""
        settings = {name: self.config[name] for name in ("top_k", "top_p", "temperature", "smooth")}
        return Choice(**{**settings, **{name: value for name, value in changes.items() if value is not None}})  # type: ignore[arg-type]
