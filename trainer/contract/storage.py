"""What a run needs beside the device: disk, main memory for its saves, and seconds to bring a checkpoint up. Pure.

Not in footprint.py, whose every change ends running experiments (trainer.contract.code).
"""

from __future__ import annotations

from trainer.contract.recipe import Recipe

# torch's allocator of pinned memory hands it out in powers of two (CachingHostAllocator): up to twice what is asked for
PINNED_FACTOR = 2.0
PART_BYTES = 400e6  # of a remote source, while it is tokenised and the next one arrives: two of some 100-200 MB each
BASE_BYTES = 25e9  # system, Python, torch and its CUDA libraries, compiled code, logs
WIDE_VOCAB = 2**16


def checkpoint_bytes(recipe: Recipe, item_bytes: int) -> float:
    """Weights and optimizer state on disk; `item_bytes` is the compute dtype's size."""
    params = recipe.num_params
    embeddings = params.wte + params.value_embeds
    per_matrix = 8 if recipe.features.muon else 12
    adam = params.total - params.matrices - embeddings
    return per_matrix * params.matrices + 12 * adam + 3 * item_bytes * embeddings


def save_host_bytes(recipe: Recipe, *, item_bytes: int, on_cuda: bool) -> float:
    """Main memory that a save's copy takes, and keeps for the next one."""
    return checkpoint_bytes(recipe, item_bytes) * (PINNED_FACTOR if on_cuda else 1.0)


def upload_s(recipe: Recipe, *, item_bytes: int, bytes_per_s: float) -> float:
    """Seconds to bring a checkpoint up, at a measured speed. Raises ValueError for a speed that is none."""
    if not bytes_per_s > 0:
        raise ValueError(f"bytes_per_s {bytes_per_s} must be above 0")
    return checkpoint_bytes(recipe, item_bytes) / bytes_per_s


def disk_bytes(recipe: Recipe, *, item_bytes: int, checkpoint_keep: int, eval_tokens: int = 0) -> float:
    """Of a machine that trains the whole horizon: tokens, text while it is tokenised, checkpoints, and all else.

    Checkpoints are the newest ones, the best one, and the one that is being written.
    """
    token_bytes = 2 if recipe.vocab_size <= WIDE_VOCAB else 4
    tokens = token_bytes * 1.01 * (recipe.train_tokens + eval_tokens)  # and where documents begin
    return BASE_BYTES + tokens + PART_BYTES + (checkpoint_keep + 2) * checkpoint_bytes(recipe, item_bytes)
