"""A researcher's own notebook: a lab that knows its store, its project and who asks.

    lab = patron_core.open()
    sweep = lab.sweep("lr", depth=1, data="stdlib", num_steps=200, grid={"lr_scale": [0.5, 1, 2]}, seeds=2)
    sweep.estimate()
    sweep.launch(max_usd=0.05)
    await sweep.wait()
    sweep.compare(by="lr_scale")
    lab.metrics(sweep, ["val/bpb"], x=["step", "usd"])
    lab.note("2.0 wins", kind="result", runs=sweep)

Thin over `patron_core.verbs`: what they raise is raised here.
"""

from patron_core.notebook.lab import Lab, open_lab
from patron_core.notebook.runs import RunSet
from patron_core.notebook.sweeps import Comparison, SweepHandle

__all__ = ["Comparison", "Lab", "RunSet", "SweepHandle", "open_lab"]
