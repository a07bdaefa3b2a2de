"""The denoising schedule of a WanPipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from transporter_pl.errors import TransporterError


class WanSchedule:
    """The pipeline's own scheduler, for one sampling run.

    Args:
        scheduler: Flow-matching scheduler of diffusers; a new one like it is made, as solvers keep a history.
        steps: Number of steps.
        device: Where the latents are.

    Attributes:
        times: σ of each step, (steps,), descending; the shift of the scheduler's configuration is in it.
    """

    def __init__(self, scheduler: SchedulerMixin, steps: int, device: torch.device | str = "cpu") -> None:
        if steps < 1:
            msg = f"steps: {steps}, but sampling takes at least 1"
            raise TransporterError(msg)
        self._scheduler = type(scheduler).from_config(scheduler.config)
        self._scheduler.set_timesteps(steps, device=device)
        # the time steps of some solvers are cut to whole numbers: σ is exact
        self.times: Tensor = self._scheduler.sigmas[:-1].to(device)

    @property
    def whole(self) -> bool:
        """Whether the pipeline asks its model at whole time steps only."""
        return not self._scheduler.timesteps.is_floating_point()

    def step(self, velocity: Tensor, index: int, latents: Tensor) -> Tensor:
        """Latents after step ``index``; a run may begin at any step, and then goes on step by step."""
        if self._scheduler.step_index is None:
            self._scheduler.set_begin_index(index)
        after: Tensor = self._scheduler.step(velocity, self._scheduler.timesteps[index], latents, return_dict=False)[0]
        return after


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Refuse a scheduler whose model output is no velocity, or whose shift is not in its configuration.

    Raises:
        TransporterError: If so.
    """
    euler = "shift" in config and "prediction_type" not in config
    flow = euler or (config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction")
    if not flow or config.get("use_dynamic_shifting"):
        msg = (
            f"scheduler: {config.get('_class_name')} with prediction_type={config.get('prediction_type')!r}, "
            f"use_dynamic_shifting={config.get('use_dynamic_shifting')!r} is no plain flow-matching scheduler; "
            "use FlowMatchEulerDiscreteScheduler, or UniPCMultistepScheduler with use_flow_sigmas and flow_prediction"
        )
        raise TransporterError(msg)
