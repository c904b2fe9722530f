"""What is known about each corpus before a user's first run: published points, and runs of this trainer. Pure.

Published points, from nanochat's log and leaderboard: the compute-optimal table of January 2026 and three leaderboard
runs on FineWeb-EDU; on ClimbMix, used since March 2026, two leaderboard runs and two runs of one hour. Figures of one
corpus do not compare with those of the other.
The priors' exponents are Hoffmann's and Besiroglu's; their E is theirs divided by 4.4 bytes a token, and loosely held.
"""

from __future__ import annotations

from functools import cache

from patron_core.scaling.fitting import Optimum, Prior, fit_law
from patron_core.scaling.law import Fit, Observation

_WEB_PRIOR = Prior.independent(e=0.56, a=0.18, b=0.18, alpha=0.34, beta=0.32, spread=(0.15, 0.6, 0.6, 0.15, 0.15))
# A corpus nobody measured: somewhere between source code and prose, at any size. 68 % within a factor 1.4 of E.
_UNKNOWN_PRIOR = Prior.independent(e=0.50, a=0.20, b=0.20, alpha=0.30, beta=0.30, spread=(0.35, 0.7, 0.7, 0.25, 0.25))

FINEWEB_EDU = (
    Observation(num_params=110.7e6, num_tokens=1.242e9, val_bpb=0.8972, label="compute-optimal at 1e18 FLOP"),
    Observation(num_params=167.8e6, num_tokens=1.785e9, val_bpb=0.8616, label="compute-optimal at 2.15e18 FLOP"),
    Observation(num_params=250.7e6, num_tokens=2.642e9, val_bpb=0.8293, label="compute-optimal at 4.64e18 FLOP"),
    Observation(num_params=381.8e6, num_tokens=3.807e9, val_bpb=0.7999, label="compute-optimal at 1e19 FLOP"),
    Observation(num_params=729.8e6, num_tokens=16704 * 2**19, val_bpb=0.74833, label="d24, 16704 steps of 2^19"),
    Observation(num_params=918.3e6, num_tokens=14889 * 2**19, val_bpb=0.745036, label="d26 fp8, 14889 steps of 2^19"),
    Observation(num_params=918.3e6, num_tokens=7226 * 2**20, val_bpb=0.74645, label="d26 fp8, 7226 steps of 2^20"),
)
CLIMBMIX = (
    Observation(num_params=70_123_820, num_tokens=1500 * 2**19, val_bpb=0.8975, label="d10, mean of .897 and .898"),
    Observation(num_params=110_100_912, num_tokens=2205 * 2**19, val_bpb=0.854, label="d12, 2205 steps of 2^19"),
    Observation(num_params=729.8e6, num_tokens=9.5 * 729.8e6, val_bpb=0.71854, label="d24 fp8, 9.5 tokens a parameter"),
    Observation(num_params=729.8e6, num_tokens=8.7 * 729.8e6, val_bpb=0.71808, label="d24 fp8, 8.7, a later recipe"),
)
# CPython 3.11's library, 4096 ids, sequences of 256, seed 42, AVX512 bf16 on one thread; 131,072 held-out tokens. Each:
#   python -m trainer.train SPEC.json RUN_DIR
# with {"depth": d, "num_steps": n, "batch_tokens": b, "sequence_len": 256, "vocab_size": 4096,
#   "device_batch_size": b / 256, "eval_every_steps": 0, "eval_tokens": 131072, "device": "cpu"}
STDLIB = (
    Observation(num_params=720_908, num_tokens=80 * 4096, val_bpb=2.4822, label="d1, 80 steps of 4096"),
    Observation(num_params=720_908, num_tokens=120 * 8192, val_bpb=2.0085, label="d1, 120 steps of 8192"),
    Observation(num_params=917_516, num_tokens=80 * 4096, val_bpb=2.4615, label="d2, 80 steps of 4096"),
    Observation(num_params=3_407_920, num_tokens=80 * 4096, val_bpb=2.4949, label="d3, 80 steps of 4096"),
    Observation(num_params=4_194_352, num_tokens=80 * 4096, val_bpb=2.4199, label="d4, 80 steps of 4096"),
)

# Relative, and how many runs it counts for beside the scatter of the user's own. The models of FineWeb-EDU's table had
# bigram embeddings that the three later runs had not.
_NOISE = {"fineweb-edu": (0.004, 6.0), "climbmix": (0.005, 6.0), "stdlib": (0.02, 6.0)}
_UNKNOWN_NOISE = (0.02, 1.0)

WEB_REGIME = "32768 ids, context 2048"
STDLIB_REGIME = "4096 ids, context 256"


def regime(vocab_size: int, sequence_len: int) -> str:
    """What makes figures of one corpus incomparable but for an offset, and is no property of size or horizon."""
    return f"{vocab_size} ids, context {sequence_len}"


def usual_noise(corpus: str) -> tuple[float, float]:
    """Relative, of one run's val_bpb: seeds, order of the data, small changes of the recipe; and how surely."""
    return _NOISE.get(corpus, _UNKNOWN_NOISE)


@cache
def corpus_fit(corpus: str) -> Fit:
    """The law for a corpus before any run of the user's. An unknown corpus (path:...) gets a wide guess."""
    if corpus == "fineweb-edu":
        optima = [Optimum(num_params=run.num_params, num_tokens=run.num_tokens) for run in FINEWEB_EDU[:4]]
        source = "4 published compute-optimal points and 3 runs of depth 24 and 26"
        return _fitted(corpus, _WEB_PRIOR, FINEWEB_EDU, optima, source, WEB_REGIME)
    if corpus == "climbmix":
        # 10.5 tokens a parameter was the measured optimum at depth 12
        optima = [Optimum(num_params=110_100_912, num_tokens=10.5 * 110_100_912, spread=0.3)]
        return _fitted(corpus, _WEB_PRIOR, CLIMBMIX, optima, "4 published runs of depth 10, 12 and 24", WEB_REGIME)
    if corpus == "stdlib":
        source = f"{len(STDLIB)} short runs of this trainer"
        return _fitted(corpus, _UNKNOWN_PRIOR, STDLIB, [], source, STDLIB_REGIME)
    return _fitted(corpus, _UNKNOWN_PRIOR, (), [], "not measured: a guess with a wide interval", None)


def prior_of(fit: Fit) -> Prior:
    """A fit as the prior of the next one."""
    import numpy as np

    precision = np.linalg.inv(np.array(fit.covariance))
    return Prior(theta=fit.theta, precision=tuple(tuple(map(float, row)) for row in precision))


def _fitted(
    corpus: str, prior: Prior, anchors: tuple[Observation, ...], optima: list[Optimum], source: str, home: str | None
) -> Fit:
    noise = usual_noise(corpus)
    found = fit_law(prior, anchors, noise=noise, optima=optima, learn_noise=False)
    return Fit(
        corpus=corpus,
        theta=found.theta,
        covariance=found.covariance,
        noise=found.noise,
        noise_runs=found.noise_runs,
        home=home,
        anchors=anchors,
        source=source,
    )
