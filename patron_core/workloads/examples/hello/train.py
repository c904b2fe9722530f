"""Hello, world: a line is fitted to points for a minute. Logs to MLflow, and goes on where it was killed."""

import argparse
import json
import os
import random
import time
from pathlib import Path

import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("--num-iterations", type=int, default=240)
parser.add_argument("--learning-rate", type=float, default=0.02)
parser.add_argument("--step-s", type=float, default=0.25, help="a real step would compute for so long")
args = parser.parse_args()

points = [(x / 10, 3 * x / 10 - 1 + random.Random(x).gauss(0, 0.1)) for x in range(-10, 11)]
state = Path("state.json")
slope, offset, first = json.loads(state.read_text()) if state.exists() else (0.0, 0.0, 1)

with mlflow.start_run(run_id=os.environ.get("MLFLOW_RUN_ID")):
    mlflow.log_params(vars(args))
    for step in range(first, args.num_iterations + 1):
        errors = [(slope * x + offset - y, x) for x, y in points]
        slope -= args.learning_rate * 2 * sum(error * x for error, x in errors) / len(points)
        offset -= args.learning_rate * 2 * sum(error for error, _ in errors) / len(points)
        time.sleep(args.step_s)
        loss = sum(error**2 for error, _ in errors) / len(points)
        mlflow.log_metric("loss", loss, step=step)
        made = state.with_suffix(".new")
        made.write_text(json.dumps([slope, offset, step + 1]))
        made.replace(state)
    print(f"y = {slope:.3f} x + {offset:.3f}")
    mlflow.log_text(f"y = {slope} x + {offset}\n", "line.txt")
    mlflow.set_tag("line", f"y = {slope:.3f} x + {offset:.3f}")
