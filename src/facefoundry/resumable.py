"""A training that goes on where it was killed: what all Lightning modules of the project share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from facefoundry.errors import DivergedError
from facefoundry.keeping import atomic
from facefoundry.optim import build_optimizer, build_schedule, moving_average
from facefoundry.sharded import is_sharded, load_optimizer, whole_optimizer, whole_state

LogMetrics = Callable[[Mapping[str, float], int], None]
Curves = list[dict[str, float]]
LAST = "last.pt"


class ResumableModule(pl.LightningModule):
    """Optimiser, schedule, moving average, NaN guard, curves and checkpoints of one training.

    options: `steps` and what facefoundry.optim reads; `ema`, 0 for no moving average.
    """

    memory_format = torch.channels_last  # what convolutions and batch normalisation like best

    def __init__(self, options: Mapping[str, Any], log_metrics: LogMetrics) -> None:
        super().__init__()
        self.options, self.log_metrics = options, log_metrics
        self.average: AveragedModel | None = None
        self.cache: Path | None = None
        self.curves: Curves = []
        self._resumed: dict[str, Any] = {}
        self._losses: list[torch.Tensor] = []

    def adopt(self, net: nn.Module) -> nn.Module:
        """The net that is trained, in its `memory_format`; its moving average is kept beside it
        where the options ask for one."""
        net = net.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.options["ema"]:
            self.average = moving_average(net, self.options["ema"])
        self._followed = [net]  # in a list: its weights are in the state once, under its own name
        return net

    @property
    def trained(self) -> nn.Module:
        """The net that is validated and kept: the moving average where there is one."""
        net: nn.Module = self.average.module if self.average else self._followed[0]
        return net

    @property
    def step(self) -> int:
        """Steps done in all, those before a kill too."""
        return int(self._resumed.get("step", 0)) + self.global_step

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer([self], self.options["optimizer"])
        schedule = build_schedule(self.options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        if self.average:
            self.average.update_parameters(self._followed[0])

    def counted(self, loss: torch.Tensor, advice: Callable[[], str]) -> torch.Tensor:
        """The loss, noted for `mean_loss`. Raises DivergedError where it is NaN or infinite."""
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is {loss.item()} at step {self.step}{advice()}")
        self._losses.append(loss.detach())
        return loss

    def mean_loss(self) -> torch.Tensor:
        """Of the steps since the last call."""
        mean = torch.stack(self._losses).mean()
        self._losses.clear()
        return mean

    def resume(self, cache: Path) -> None:
        """Go on from what a killed training left in `cache`, and leave checkpoints there."""
        self.cache = cache
        if (cache / LAST).is_file():
            self._resumed = torch.load(cache / LAST, weights_only=True)
            self.load_state_dict(self._resumed["module"])
            self.curves = self._resumed["curves"]

    def on_fit_start(self) -> None:
        if not self._resumed:
            return
        optimizer, state = self.trainer.optimizers[0], self._resumed["optimizer"]
        if is_sharded(self):
            load_optimizer(self, optimizer, state)
        else:
            optimizer.load_state_dict(state)
        for name, part in self._going_on().items():
            part.load_state_dict(self._resumed[name])

    def checkpoint(self, cache: Path) -> None:
        """All that `resume` needs. Every process must call it; the first writes."""
        optimizer = self.trainer.optimizers[0]
        state = {
            "step": self.step,
            "module": self.weights(),
            "curves": self.curves,
            "optimizer": (
                whole_optimizer(self, optimizer) if is_sharded(self) else optimizer.state_dict()
            ),
        }
        parts = {name: part.state_dict() for name, part in self._going_on().items()}
        self.write(cache / LAST, state | parts)

    def weights(self) -> dict[str, Any]:
        """The state dict, whole even where the weights are in shards; then every process must
        call it."""
        return whole_state(self) if is_sharded(self) else self.state_dict()

    def write(self, path: Path, state: Mapping[str, Any]) -> None:
        """In the first of several processes."""
        if self.trainer.is_global_zero:
            write_state(path, state)

    def _going_on(self) -> dict[str, Any]:
        return {
            "schedule": self.trainer.lr_scheduler_configs[0].scheduler,
            "precision": self.trainer.precision_plugin,  # fp16's scale of the loss
        }


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """By atomic rename: a kill leaves the file of before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)
