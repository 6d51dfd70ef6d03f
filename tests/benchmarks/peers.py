"""The peers: peft under a plain training loop, and peft under transformers' Trainer."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.optimization import get_linear_schedule_with_warmup

from lingo.data import Split
from lingo.trial import TrialConfig
from tests.benchmarks.models import Shape

TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "fc1", "fc2"]


def peft_model(
    shape: Shape,
    trial: TrialConfig,
    *,
    total_steps: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Any:
    """An OPT classifier with peft's adapters for the settings of a trial."""
    common: dict[str, Any] = {
        "task_type": "SEQ_CLS",
        "target_modules": TARGET_MODULES,
        "lora_alpha": trial.alpha,
        "lora_dropout": trial.adapter_dropout,
    }
    config: LoraConfig
    if trial.method == "lora":
        config = LoraConfig(r=trial.rank, **common)
    else:
        first, last = trial.budget_phase(total_steps)
        config = AdaLoraConfig(
            init_r=trial.b0,
            target_r=trial.bT,
            tinit=first,
            tfinal=total_steps - last,
            deltaT=trial.delta_T,
            beta1=trial.beta1,
            beta2=trial.beta2,
            orth_reg_weight=trial.orthogonality,
            total_step=total_steps,
            **common,
        )
    model = get_peft_model(shape.classifier(dtype=dtype, device=device), config)
    return model.train()


class PlainLoop:
    """peft trained as its documentation shows: one batch, backward, AdamW, schedule, allocation."""

    def __init__(
        self,
        shape: Shape,
        trial: TrialConfig,
        *,
        steps: int,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.model = peft_model(shape, trial, total_steps=steps, dtype=dtype, device=device)
        self.trial, self.step_number, self.device = trial, 0, device
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=trial.learning_rate, weight_decay=trial.weight_decay, fused=True
        )
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, steps)
        self.batches = _batches(shape.task(steps).train, shape.batch)

    def step(self) -> None:
        """One training step."""
        ids, labels = next(self.batches)
        loss = self.model(input_ids=ids.to(self.device), labels=labels.to(self.device)).loss
        loss.backward()
        assert self.trial.max_grad_norm is not None
        torch.nn.utils.clip_grad_norm_(self.trained, self.trial.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.step_number += 1
        if self.trial.method != "lora":
            self.model.base_model.update_and_allocate(self.step_number)
        self.optimizer.zero_grad()


def _batches(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), size):
        rows = range(start, min(start + size, len(split)))
        ids, _ = split.padded(rows, 1)
        yield torch.from_numpy(ids), torch.from_numpy(split.labels[start : start + size])


class TrainerLoop:
    """The same model under `transformers.Trainer`, which by itself never allocates."""

    def __init__(
        self, shape: Shape, trial: TrialConfig, *, steps: int, clock: Any = time.process_time
    ) -> None:
        self.model = peft_model(shape, trial, total_steps=steps)
        self.trial, self.steps, self.done, self.clock = trial, steps, 0, clock
        split = shape.task(steps).train
        self.rows = [
            {"input_ids": split.ids[a : a + shape.tokens].astype("int64"), "labels": int(label)}
            for a, label in zip(split.offsets, split.labels, strict=False)
        ]

    def seconds_a_step(self, count: int) -> float:
        """Train `count` steps more; the time of one, without that of setting the Trainer up."""
        times: list[float] = []
        loop = self

        class Allocate(TrainerCallback):
            def on_optimizer_step(self, *_: Any, **__: Any) -> None:
                loop.done += 1
                loop.model.base_model.update_and_allocate(loop.done)

            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(loop.clock())

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=self.trial.batch_size,
                max_steps=count + 2,
                learning_rate=self.trial.learning_rate,
                weight_decay=self.trial.weight_decay,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                log_level="error",
                use_cpu=True,
            )
            trainer = Trainer(
                model=self.model, args=arguments, train_dataset=self.rows, callbacks=[Allocate()]
            )
            # The Trainer prints its own report.
            with redirect_stdout(sys.stderr):
                trainer.train()
        return (times[-1] - times[1]) / count
