#!/usr/bin/env bash
# The first minutes on a GPU, as one table: correctness, speed, upstream beside it, and what saves and evaluations cost.
#
#   bash tests/bench/lease.sh                                   # on the GPU; results go to $OUT, or to lease-out
#   bash tests/bench/lease.sh --vs PATH_TO_NANOCHAT             # and upstream on the same card
#   bash tests/bench/lease.sh --warm lease-out/caches.tar.gz.*  # with what an earlier one compiled
#   bash tests/bench/lease.sh --smoke                           # the rehearsal: every part on the CPU, at toy sizes
#
# No network, no polars, obstore, marimo or mlflow; python3 (or $PYTHON) with torch, triton, numpy and tokenizers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-python3}" -m tests.bench.lease.run "$@"
