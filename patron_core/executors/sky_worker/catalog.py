"""Reads SkyPilot's catalog, in a short-lived process.

    python -m patron_core.executors.sky_worker.catalog --accelerators A100,H100 --clouds gcp,aws   one JSON line a cloud

The catalog's download has no timeout: `patron_core.machines.catalog` starts this with a deadline, and keeps what it
printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

_QUIET = {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "SKYPILOT_DISABLE_LOCAL_API_SERVER": "1"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m patron_core.executors.sky_worker.catalog", description=__doc__)
    parser.add_argument("--accelerators", required=True, help="SkyPilot's exact names, A,B,...")
    parser.add_argument("--clouds", required=True, help="gcp,aws,...")
    args = parser.parse_args(argv)
    out, sys.stdout = sys.stdout, sys.stderr  # SkyPilot prints as it likes
    os.environ.update(_QUIET)
    names, clouds = args.accelerators.split(","), args.clouds.split(",")
    with ThreadPoolExecutor(len(clouds)) as pool:  # a cloud that hangs holds up no other
        for done in as_completed([pool.submit(_answer, cloud, names) for cloud in clouds]):
            print(json.dumps(done.result()), file=out, flush=True)
    return 0


def _answer(cloud: str, names: list[str]) -> dict[str, Any]:
    try:
        rows = list(read_cloud(cloud, names))
        return {"cloud": cloud, "fetched_at": _fetched_at(cloud), "rows": rows}
    except OSError as error:  # every way a download fails
        return {"cloud": cloud, "error": f"its catalog could not be downloaded ({type(error).__name__})"}
    except Exception as error:  # whatever else a cloud's module raises: it is that cloud's problem alone
        return {"cloud": cloud, "error": f"{type(error).__name__}: {error}"[:300]}


def read_cloud(cloud: str, names: list[str]) -> Iterator[dict[str, Any]]:
    """Every machine with one of the accelerators, by zone: {instance_type, accelerator, count, device_memory_gib,
    region, zone, price, spot_price, gpu_price, gpu_spot_price}; dollars an hour of host and GPUs together, and of the
    GPUs alone where the catalog prices them apart. None where there is no such price.
    """
    import sky.catalog

    pattern = f"^(?:{'|'.join(map(re.escape, names))})$"
    found = sky.catalog.list_accelerators(gpus_only=True, name_filter=pattern, clouds=cloud, all_regions=True)
    for name in names:
        for info in found.get(name, ()):
            row = {
                "instance_type": info.instance_type,
                "accelerator": name,
                "count": float(info.accelerator_count),
                "device_memory_gib": _number(info.device_memory),
                "region": str(info.region),
                "zone": None,
                "price": _number(info.price),
                "spot_price": _number(info.spot_price),
                "gpu_price": None,
                "gpu_spot_price": None,
            }
            zones = _zones(sky.catalog, cloud, row)
            if zones:
                yield from ({**row, "zone": zone, **both} for zone, both in zones.items())
            else:
                yield row


def _zones(catalog: Any, cloud: str, row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The prices in each zone of the row's region; empty where the cloud has no zones, or tells no price of them."""
    prices: dict[str, dict[str, float | None]] = {}
    for key, spot in (("price", False), ("spot_price", True)):
        try:
            for zone in _zones_with_price(catalog, cloud, row, spot):
                at = {"use_spot": spot, "region": row["region"], "zone": zone, "clouds": cloud}
                found = prices.setdefault(zone, {"price": None, "spot_price": None})
                usd = catalog.get_hourly_cost(row["instance_type"], **at)
                if cloud == "gcp":  # there the host and its GPUs are priced apart
                    gpus = catalog.get_accelerator_hourly_cost(row["accelerator"], int(row["count"]), **at)
                    found[f"gpu_{key}"] = _number(gpus)
                    usd += gpus
                found[key] = _number(usd)
        except (ValueError, AssertionError, KeyError, NotImplementedError):
            return {}
    return prices


def _zones_with_price(catalog: Any, cloud: str, row: dict[str, Any], spot: bool) -> list[str]:
    """Only zones that list the price: asked for a spot price that is missing, GCP's catalog answers the full price."""
    places = [catalog.get_region_zones_for_instance_type(row["instance_type"], spot, clouds=cloud)]
    if cloud == "gcp":
        places.append(
            catalog.get_region_zones_for_accelerators(row["accelerator"], int(row["count"]), spot, clouds=cloud)
        )
    names = [
        {zone.name for region in regions if region.name == row["region"] for zone in region.zones or ()}
        for regions in places
    ]
    return sorted(set.intersection(*names))


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _fetched_at(cloud: str) -> float | None:
    """When the catalog was downloaded. A failed download touches the CSV but not its checksum; a catalog of one's own
    has no checksum, and then the file's own time counts.
    """
    from sky.catalog import common

    catalog = Path(common.get_catalog_path(f"{cloud}/vms.csv"))
    checksum = catalog.parents[1] / ".meta" / cloud / "vms.csv.md5"
    for path in (checksum, catalog):
        if path.exists():
            return path.stat().st_mtime
    return None


if __name__ == "__main__":
    sys.exit(main())
