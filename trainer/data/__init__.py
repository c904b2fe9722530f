"""Data for training: from a source's name to shuffled, packed batches of tokens.

    prepare  ->  PreparedData  ->  TrainLoader / val_batches

Files, in the order text flows: sources and local (documents), download (remote shards), tokenizer, shards (tokens on
disk), packing (documents into rows), loader (batches), prepare (all of it, once, before training).
"""

from trainer.data.errors import DataError, DataExhausted
from trainer.data.loader import Batch, TrainLoader, val_batches
from trainer.data.prepare import PreparedData, prepare
from trainer.data.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "DataError",
    "DataExhausted",
    "PreparedData",
    "Tokenizer",
    "TrainLoader",
    "prepare",
    "val_batches",
]
