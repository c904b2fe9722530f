"""What the two trainers learn from the same tokens: same order, same tokenizer, same first weights, same validation.

Both follow one recipe ("shared": ours, with the warm-up and weight decay of a run this short, given to upstream too) or
each its own ("own": upstream then warms up for 40 steps however few there are). The rest of the recipe is the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.bench.jobs import Job
from tests.bench.sides import make_spec, micro_batches, start_upstream, training_loop
from trainer.contract.spec import TrainSpec
from trainer.data import PreparedData, prepare
from trainer.data.loader import val_batches
from trainer.environment import cache_folder
from trainer.model.gpt import build_model


def learn(job: Job, folder: Path) -> dict[str, Any]:
    """Validation bits per byte after the job's steps."""
    spec = make_spec(
        job,
        num_steps=job.learn_steps,
        data=job.data,
        eval_every_steps=0,
        eval_tokens=job.eval_tokens,
        checkpoint_every_s=0,
    )
    data = prepare(spec, cache_folder())
    return (learn_ours if job.side == "ours" else learn_upstream)(job, spec, data, folder)


def learn_ours(_job: Job, spec: TrainSpec, data: PreparedData, folder: Path) -> dict[str, Any]:
    loop = training_loop(spec, data, folder)
    loop.run(loop.recipe.num_steps)
    return {"val_bpb": loop.position.val_bpb}


def learn_upstream(job: Job, spec: TrainSpec, data: PreparedData, _folder: Path) -> dict[str, Any]:
    trainer = start_upstream(job, job.learn_steps)
    ours = spec.recipe()
    if job.schedule == "shared":
        trainer.recipe = replace(
            trainer.recipe, warmup_steps=ours.schedule.warmup_steps, weight_decay=ours.schedule.weight_decay
        )
    model = build_model(ours, device=trainer.device, compute_dtype=getattr(torch, job.dtype), seed=spec.seed)
    trainer.take_weights(dict(model.named_parameters()))
    next_micro_batches = micro_batches(job, data)
    for number in range(job.learn_steps):
        trainer.step(number, next_micro_batches())
    assert job.device_batch_size is not None
    batches = list(val_batches(data, job.device_batch_size, job.sequence_len, job.eval_tokens))
    return {"val_bpb": trainer.val_bpb(batches, torch.from_numpy(data.token_bytes))}
