"""The trainer: PyTorch pretraining of the nanochat family on one machine.

Runs alone, with nothing else of Patron installed::

    python -m trainer.train spec.json RUN_DIR

`recipe`, `spec` and `devices` are pure (no torch): the estimator reads the arithmetic that the model is built from.
"""
