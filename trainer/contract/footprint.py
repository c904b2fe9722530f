"""Where the memory of a training step goes, part by part. Pure.

Weights as the trainer keeps them: matrices and lm_head in float32, embeddings in the compute dtype, Adam's moments in
the dtype of their parameter. Activations were fitted to three published peaks (depth 10 at 16 and 32 sequences of 2048,
depth 12 at 32): 34.4 bytes a token, layer and channel in compiled bfloat16, and 2.4 bytes a token and vocabulary entry
for a head that keeps all its logits at once.
"""

from __future__ import annotations

from trainer.contract.blocks import MAX_SCORED_WINDOW, query_blocks
from trainer.contract.recipe import Recipe

ACTIVATION_VALUES = 17.2  # kept for each token, layer and channel, compiled
EAGER_ACTIVATION_VALUES = 25.0  # counted in the model's graph: every intermediate that backward needs
WHOLE_HEAD_BYTES = 2.4  # a token and vocabulary entry, when the head is not chunked
HEAD_CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**30}  # trainer.model.head: logits of one chunk; a test compares
# chunks alive at once: a kernel works in place, beside it a product for the weight; eager on CUDA every intermediate
HEAD_CHUNK_COPIES = {True: 2.0, False: 10.0}
CPU_RUNTIME_BYTES = 750e6  # interpreter, torch, loader, freed memory that is kept; from depth 1 and 2 on a CPU
FRAGMENTATION = 0.04


def memory_parts(
    recipe: Recipe, *, micro_batch_size: int, item_bytes: int, compiled: bool, cpu: bool, chunked_head: bool = True
) -> dict[str, float]:
    """Bytes by part. `item_bytes` is the compute dtype's size; a whole head is upstream nanochat's."""
    params = recipe.num_params
    tokens = micro_batch_size * recipe.sequence_len
    embeddings = params.wte + params.value_embeds
    full = params.total - embeddings  # in float32
    weights = 4 * full + item_bytes * embeddings
    matrix_states = 4 if recipe.features.muon else 8
    adam = params.total - params.matrices - embeddings
    casts = (params.matrices + params.lm_head) * item_bytes if item_bytes < 4 else 0
    # embeddings, smear, residuals and what backward makes of them: uncompiled, about one more layer
    values = ACTIVATION_VALUES * recipe.depth if compiled else EAGER_ACTIVATION_VALUES * (recipe.depth + 1)
    logits = tokens * recipe.vocab_size
    chunk_bytes = min(item_bytes * logits, HEAD_CHUNK_BYTES["cpu" if cpu else "cuda"])
    head = WHOLE_HEAD_BYTES * logits
    if chunked_head:
        head = HEAD_CHUNK_COPIES[compiled or cpu] * chunk_bytes + 4 * params.lm_head
    parts = {
        "weights": float(weights),
        "gradients": float(weights),
        "optimizer": float(matrix_states * params.matrices + 8 * adam + 2 * item_bytes * embeddings),
        "casts": float(casts),
        "activations": values * item_bytes * tokens * recipe.dim,
        "head": float(head),
    }
    if cpu:
        parts["runtime"] = CPU_RUNTIME_BYTES
        keys = sum(scored_keys(recipe.sequence_len, window) for window in recipe.windows)
        parts["scores"] = float((item_bytes if compiled else item_bytes + 5) * tokens * recipe.num_heads * keys)
    return parts


def scored_keys(sequence_len: int, window: int) -> float:
    """Keys that trainer.model.attention multiplies a query with on a CPU, on average; 0 where it keeps no scores."""
    window = min(window, sequence_len)
    if window == sequence_len > MAX_SCORED_WINDOW:
        return 0.0
    blocks = query_blocks(sequence_len, window)
    return sum((end - start) * (end - first_key) for start, end, first_key in blocks) / sequence_len
