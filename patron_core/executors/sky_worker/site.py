"""What SkyPilot is here: its server, the clouds that it may use, its jobs controller, what it would rent for a task.

Nothing here starts a machine.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from patron_core.executors.sky_worker.jobs import plain

CONTROLLER_PREFIX = "sky-jobs-controller-"


def server_url() -> str:
    from sky.server.common import get_server_url

    return str(get_server_url())


def is_local() -> bool:
    """Whether `sky api start` here can bring it up."""
    return urlsplit(server_url()).hostname in ("127.0.0.1", "localhost", "0.0.0.0", "::1")


def server() -> dict[str, Any]:
    """{url, local, status, version, client_version}. Raises where nobody answers."""
    import sky

    info = sky.api_info()
    return {
        "url": server_url(),
        "local": is_local(),
        "status": str(plain(info.status)),
        "version": info.version,
        "client_version": sky.__version__,
    }


def clouds() -> list[str]:
    """Those that the last `sky check` enabled, in lower case; asking costs no probing."""
    import sky
    from sky.client import sdk

    return sorted(str(cloud).lower() for cloud in sky.get(sdk.enabled_clouds()))


def controller() -> dict[str, Any]:
    """{kind, name, status, usd_per_hour, resources, hosts}: `kind` is "machine", "none" while the first launch has yet
    to make it, or "server" in consolidation mode. `hosts`: the enabled clouds that such a machine can be made in."""
    import sky

    found: dict[str, Any] = {"kind": "server", "hosts": _hosts()}
    for cluster in sky.get(sky.status(all_users=True)):
        if cluster["name"].startswith(CONTROLLER_PREFIX):
            launched = cluster["handle"].launched_resources
            found |= {"name": cluster["name"], "status": plain(cluster["status"]), "resources": str(launched)}
            with suppress(Exception):  # no price in the catalog
                found["usd_per_hour"] = float(launched.get_cost(3600))
    try:
        sky.get(sky.jobs.queue_v2(refresh=False, job_ids=[0], fields=["job_id", "status"]))
    except sky.exceptions.ClusterNotUpError:
        found["kind"] = "none"
    if "name" in found:
        found["kind"] = "machine"
    elif found["kind"] == "none":
        found["usd_per_hour"] = _controller_usd_per_hour(found["hosts"])
    return found


def _controller_usd_per_hour(hosts: list[str]) -> float | None:
    """Of the cheapest machine that SkyPilot would make for its jobs; None where no catalog says."""
    import sky.catalog
    from sky.jobs.constants import CONTROLLER_RESOURCES

    prices = []
    for cloud in hosts:
        with suppress(Exception):  # a site without prices, a catalog that cannot be read
            machine = sky.catalog.get_default_instance_type(
                cpus=str(CONTROLLER_RESOURCES["cpus"]), memory=str(CONTROLLER_RESOURCES["memory"]), clouds=cloud
            )
            usd = sky.catalog.get_hourly_cost(machine, use_spot=False, region=None, zone=None, clouds=cloud)
            prices.append(float(usd))
    return min(prices, default=None)


def has_quota(*, resources: dict[str, Any]) -> bool:
    """False where the cloud says that its quota for them is zero; True also where it says nothing."""
    import sky

    (asked,) = sky.Resources.from_yaml_config(resources)
    return asked.cloud is None or bool(asked.cloud.check_quota_available(asked))


def _hosts() -> list[str]:
    import sky
    from sky.clouds.cloud import CloudImplementationFeatures
    from sky.utils.registry import CLOUD_REGISTRY

    hosts = []
    for name in clouds():
        with suppress(sky.exceptions.NotSupportedError, ValueError):
            cloud = CLOUD_REGISTRY.from_str(name)
            cloud.check_features_are_supported(sky.Resources(), {CloudImplementationFeatures.HOST_CONTROLLERS})
            hosts.append(name)
    return hosts


def check_feasible(*, task: dict[str, Any]) -> None:
    """Raises ResourcesUnavailableError where nothing that the task asks for is in an enabled cloud's catalog."""
    import sky

    with sky.Dag() as dag:
        dag.add(sky.Task.from_yaml_config(task))
    sky.get(sky.optimize(dag))
