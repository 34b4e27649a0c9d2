"""Two models that differ only in their GRU, trained step by step beside each other on the same batches.

Both start from the same weights and see the same batches with the same dropout masks, and they take turns, so that
whatever else the machine does slows down both alike.
"""

import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

import gru_fused

GRU_CLASSES: dict[str, Callable[..., nn.Module]] = {"nn.GRU": nn.GRU, "gru_fused.GRU": gru_fused.GRU}


@dataclass(frozen=True)
class Settings:
    embedding_size: int
    hidden_size: int
    embedding_dropout: float
    dropout: float
    batch_size: int
    epochs: int
    learning_rate: float
    seed: int = 0
    max_gradient_norm: float = 1.0


class Task(Protocol):
    """What is trained, on what, and how well it does."""

    title: str
    metric: str  # of `validate` and `test`
    higher_is_better: bool
    settings: Settings
    baseline_name: str
    baseline: float  # the metric of the baseline on the test split

    def model(self, gru_class: Callable[..., nn.Module]) -> nn.Module: ...

    def batches(self, epoch: int) -> list[Any]:
        """The same number of batches in every epoch."""

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
        """The loss, and the state to carry to the next batch; `state` is None at the start of an epoch."""

    def validate(self, model: nn.Module) -> float: ...

    def test(self, model: nn.Module) -> float: ...


class Contender:
    """One of the two models, its optimizer, and the record of its training."""

    def __init__(self, name: str, model: nn.Module, task: Task, steps: int) -> None:
        self.name, self.model, self.task = name, model, task
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=task.settings.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, task.settings.learning_rate, total_steps=steps, pct_start=0.1
        )
        self.losses: list[float] = []  # of each step, as the seconds are
        self.seconds: list[float] = []
        self.validation: list[float] = []  # the metric after each epoch
        self.test: float = float("nan")
        self.best_weights: dict[str, Tensor] = {}
        self.state: Any = None

    def step(self, batch: Any) -> None:
        start = self._now()
        self.optimizer.zero_grad()
        loss, self.state = self.task.loss(self.model, batch, self.state)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.task.settings.max_gradient_norm)
        self.optimizer.step()
        self.schedule.step()
        self.seconds.append(self._now() - start)
        self.losses.append(loss.item())

    def end_epoch(self) -> None:
        """Keep the weights of the epoch that does best on the validation split: early stopping, in hindsight."""
        score = evaluate(self.task.validate, self.model)
        sign = 1 if self.task.higher_is_better else -1
        if all(sign * score > sign * earlier for earlier in self.validation):
            self.best_weights = copy.deepcopy(self.model.state_dict())
        self.validation.append(score)
        self.state = None

    def finish(self) -> None:
        self.model.load_state_dict(self.best_weights)
        self.test = evaluate(self.task.test, self.model)

    def _now(self) -> float:
        device = next(self.model.parameters()).device
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()


def evaluate(metric: Callable[[nn.Module], float], model: nn.Module) -> float:
    model.eval()
    with torch.inference_mode():
        score = metric(model)
    model.train()
    return score


def train(task: Task, classes: Mapping[str, Callable[..., nn.Module]] = GRU_CLASSES) -> list[Contender]:
    """All contenders, trained, each with the weights of its best epoch.

    They are made with the same seed, so that GRUs of any class, which draw alike, start from the same weights.
    """
    settings = task.settings
    first_epoch = task.batches(0)
    steps = settings.epochs * len(first_epoch)
    models = []
    for gru_class in classes.values():
        torch.manual_seed(settings.seed)
        models.append(task.model(gru_class))

    for model in models:  # One step on a copy, so that the first timed steps do not pay for a cold start.
        Contender("warm-up", copy.deepcopy(model), task, steps).step(first_epoch[0])
    contenders = [Contender(name, model, task, steps) for name, model in zip(classes, models, strict=True)]

    refresh = 0.2 if sys.stderr.isatty() else 20.0  # seconds; a log file gets a line now and then
    with tqdm(total=steps, desc=task.title, unit="step", mininterval=refresh, maxinterval=refresh) as bar:
        for epoch in range(settings.epochs):
            for batch in first_epoch if epoch == 0 else task.batches(epoch):
                # Each goes first every other time: the second finds the batch in the cache.
                for contender in contenders if bar.n % 2 == 0 else contenders[::-1]:
                    torch.manual_seed(settings.seed + bar.n)
                    contender.step(batch)
                bar.set_postfix({c.name: f"{c.losses[-1]:.3f}" for c in contenders}, refresh=False)
                bar.update()
            for contender in contenders:
                contender.end_epoch()
    for contender in contenders:
        contender.finish()
    return contenders
