"""Training code of others for tests: a git repository with an MLproject, and code that needs no MLflow to log to it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

MLPROJECT = """
name: toy
docker_env:
  image: example.org/toy:1
entry_points:
  main:
    parameters:
      num_iterations: {type: int, default: 60}
      lr: {type: float, default: 0.5}
      step_s: {type: float, default: 0.1}
    command: "echo preparing && python train.py {num_iterations} --lr {lr} --step-s {step_s}"
"""

# as in the repositories of the origin platform: neither URI nor experiment is set
TRAIN = """
import argparse, json, os, sys, time
from pathlib import Path
import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("steps", type=int)
parser.add_argument("--lr", type=float)
parser.add_argument("--step-s", type=float)
args = parser.parse_args()
state = Path("state")
first = int(state.read_text()) + 1 if state.exists() else 1
print("\\x1b[31mstarting\\x1b[0m at", first, flush=True)
with mlflow.start_run(run_id=os.environ.get("MLFLOW_RUN_ID")):
    mlflow.log_params({"steps": args.steps, "lr": args.lr})
    mlflow.set_tag("secrets", " ".join(sorted(name for name in os.environ if "SECRET" in name or "PATRON_" in name)))
    for step in range(first, args.steps + 1):
        mlflow.log_metric("loss", 1 / step, step=step)
        state.write_text(str(step))
        time.sleep(600 if (first, step) == (1, 40) else args.step_s)  # its first start is there to be killed
    mlflow.log_text("done", "notes/end.txt")
"""

# the lines that MLflow's client writes, without its import of three seconds
LOG = """
import os, sys, time
from pathlib import Path
from urllib.parse import urlparse
store = Path(urlparse(os.environ["MLFLOW_TRACKING_URI"]).path)
run = store / os.environ["MLFLOW_EXPERIMENT_ID"] / os.environ["MLFLOW_RUN_ID"]
def log(key, value, step=0):
    path = run / "metrics" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{int(time.time() * 1000)} {value} {step}\\n")
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def commit(folder: Path, message: str = "first") -> str:
    """A repository of all that is in the folder; the commit."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
