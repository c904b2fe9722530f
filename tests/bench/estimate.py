"""How fast estimates are: python tests/bench/estimate.py prints one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from patron_core.estimate import estimate, fit_to_budget
from patron_core.prices import fallback_price
from patron_core.scaling import Observation, refit
from trainer.contract.devices import DEVICES
from trainer.contract.spec import TrainSpec

NUM_ESTIMATES = 10_000


def main() -> None:
    prices = {name: fallback_price(name, spot=False) for name in DEVICES}
    specs = [TrainSpec(depth=2 + i % 25, data="climbmix", num_steps=100 + i) for i in range(NUM_ESTIMATES)]
    devices = list(DEVICES.values())
    start, cpu_start = time.perf_counter(), time.process_time()
    for i, spec in enumerate(specs):
        device = devices[i % len(devices)]
        estimate(spec, device, price=prices[device.name], budget_s=3600, budget_usd_micros=10_000_000)
    distinct_s, distinct_cpu_s = time.perf_counter() - start, time.process_time() - cpu_start

    start = time.perf_counter()
    row = estimate(specs[0], devices[0], price=prices["A100-40GB"])
    for _ in range(1000):
        row.to_dict()
    to_dict_s = (time.perf_counter() - start) / 1000

    start = time.perf_counter()
    fit_to_budget(specs[8], devices[0], price=prices["A100-40GB"], budget_s=3600, budget_usd_micros=10_000_000)
    plan_s = time.perf_counter() - start

    seen = [Observation(num_params=1e7 * (i + 1), num_tokens=1e8 * (i + 1), val_bpb=1.3 - 0.01 * i) for i in range(20)]
    start = time.perf_counter()
    refit("climbmix", seen)
    refit_s = time.perf_counter() - start

    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import patron_core.estimate"], check=True)
    import_s = time.perf_counter() - start
    print(
        json.dumps(
            {
                "estimates": NUM_ESTIMATES,
                "estimates_s": round(distinct_s, 3),
                "estimates_cpu_s": round(distinct_cpu_s, 3),
                "to_dict_us": round(1e6 * to_dict_s, 1),
                "fit_to_budget_ms": round(1e3 * plan_s, 2),
                "refit_20_runs_ms": round(1e3 * refit_s, 2),
                "python_start_and_import_s": round(import_s, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
