"""Data for training: from a source's name to shuffled, packed batches of tokens.

    prepare, prepare_beside  ->  PreparedData  ->  loader.TrainLoader / loader.val_batches

Files, in the order text flows: sources and local (documents), download (remote shards), tokenizer, shards (tokens on
disk), making (all of these, in the order in which training needs them), keep (the same beside the runs), ahead and
beside (the process that makes them), feed (shards that are there or will be), prepare (what is at hand when training
begins), packing (documents into rows), loader (batches).

Nothing here but the loader needs torch, which takes seconds to load.
"""

from trainer.data.errors import DataError, DataExhausted, StopWaiting, Unreachable
from trainer.data.feed import PreparedData
from trainer.data.prepare import prepare
from trainer.data.tokenizer import Tokenizer

__all__ = ["DataError", "DataExhausted", "PreparedData", "StopWaiting", "Tokenizer", "Unreachable", "prepare"]
