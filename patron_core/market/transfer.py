"""What moving and keeping a run's bytes costs: egress by cloud pair, storage by bucket. Pure.

A machine pays its own cloud for what leaves its region; what arrives is free everywhere. List prices of the first tier,
as SkyPilot 0.14.1 has them (`get_egress_cost` of each cloud) and guides of early 2026 repeat them; a month's free
100 GB and later tiers are not counted. Where the bills come from, to compare:

    aws        https://aws.amazon.com/ec2/pricing/on-demand/#Data_Transfer, https://aws.amazon.com/s3/pricing/
    gcp        https://cloud.google.com/vpc/network-pricing, https://cloud.google.com/storage/pricing
    azure      https://azure.microsoft.com/en-us/pricing/details/bandwidth/, .../storage/blobs/
    cloudflare https://developers.cloudflare.com/r2/pricing/
    lambda, runpod, nebius: no charge for traffic by their price lists
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patron_core.estimate.wall import best_interval_s

GB = 1e9
MONTH_S = 30 * 86_400.0
_TO_OTHERS = {"aws": 90_000, "gcp": 120_000, "azure": 87_000}  # micro-dollars a GB, to the internet and other clouds
_NEAR, _FAR = 20_000, 80_000  # between regions of one cloud: of one continent or between the US and Europe, else
_FREE = frozenset({"lambda", "runpod", "nebius", "cloudflare", "slurm", "kubernetes", "k8s", "ssh", "local"})
_UNKNOWN = 120_000  # the dearest known, for a cloud that is not in the table
_STORAGE = {"aws": 23_000, "gcp": 26_000, "azure": 21_000, "cloudflare": 15_000}  # a GB and month
_UNKNOWN_STORAGE = 26_000
_NEAR_REGIONS = ("us-", "eu-", "europe-", "ca-", "northamerica-", "eastus", "westus", "northeurope", "westeurope")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cloud and its region, as SkyPilot writes them; empty where it is not known."""

    cloud: str
    region: str = ""

    @classmethod
    def of(cls, infra: str) -> Place:
        cloud, _, rest = infra.lower().partition("/")
        return cls(cloud=cloud, region=rest.partition("/")[0])

    def __str__(self) -> str:
        return "/".join(filter(None, (self.cloud, self.region)))


def bucket_place(run_dir: str, env: Mapping[str, str]) -> Place | None:
    """Where the bytes of a run directory are; None for a folder. PATRON_RUNS_REGION says it: gcp/us-central1."""
    scheme = run_dir.partition("://")[0] if "://" in run_dir else ""
    if not scheme:
        return None
    if said := env.get("PATRON_RUNS_REGION"):
        return Place.of(said)
    if scheme in ("gs", "gcs"):
        return Place(cloud="gcp")
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or ""
    if "r2.cloudflarestorage" in endpoint:
        return Place(cloud="cloudflare")
    return Place(cloud="" if endpoint else "aws", region="" if endpoint else env.get("AWS_REGION", ""))


def egress_usd_micros_per_gb(source: Place, target: Place) -> int:
    """From a machine to a bucket. Where a region is not known, it is taken for another one."""
    if source.cloud in _FREE:
        return 0
    if source.cloud != target.cloud:
        return _TO_OTHERS.get(source.cloud, _UNKNOWN)
    if source.region and source.region == target.region:
        return 0
    near = all(not r or r.startswith(_NEAR_REGIONS) for r in (source.region, target.region))
    return _NEAR if near else _FAR


def checkpoints_usd_micros_per_hour(checkpoint_bytes: float, usd_micros_per_gb: int, machine: int) -> int:
    """What checkpoints on their way to the bucket cost in an hour, at the pace that their egress leaves them.

    `machine`: micro-dollars of its hour.
    """
    one = move_usd_micros(checkpoint_bytes, usd_micros_per_gb)
    return round(3600 * one / best_interval_s(3600 * one / machine))


def storage_usd_micros_per_gb_month(place: Place) -> int:
    return _STORAGE.get(place.cloud, _UNKNOWN_STORAGE)


def terms(
    bucket: Place, places: Sequence[str], *, checkpoint_bytes: float, interval_s: float, uploads_at_least: int = 2
) -> dict[str, Any]:
    """What an attempt's price keeps of it: egress by place, the dearest, storage, and what is expected an hour.

    `places` as SkyPilot writes them; `uploads_at_least` come whatever the time is.
    """
    by_place = {place: egress_usd_micros_per_gb(Place.of(place), bucket) for place in places}
    dearest = max(by_place.values(), default=_UNKNOWN)
    an_hour = move_usd_micros(checkpoint_bytes * 3600 / interval_s, dearest) if interval_s > 0 else 0
    return {
        "bucket": str(bucket),
        "egress_usd_micros_per_gb": by_place,
        "dearest_usd_micros_per_gb": dearest,
        "storage_usd_micros_per_gb_month": storage_usd_micros_per_gb_month(bucket),
        "usd_micros_per_hour": an_hour,
        "set_aside_usd_micros": move_usd_micros(uploads_at_least * checkpoint_bytes, dearest)
        + keep_usd_micros(4 * checkpoint_bytes, 86_400.0, storage_usd_micros_per_gb_month(bucket)),
    }


def move_usd_micros(num_bytes: float, usd_micros_per_gb: int) -> int:
    """Rounded up: a part of a micro-dollar is owed."""
    return -int(-max(0.0, num_bytes) * usd_micros_per_gb // GB)


def keep_usd_micros(num_bytes: float, seconds: float, usd_micros_per_gb_month: int) -> int:
    return -int(-max(0.0, num_bytes) * max(0.0, seconds) / MONTH_S * usd_micros_per_gb_month // GB)
