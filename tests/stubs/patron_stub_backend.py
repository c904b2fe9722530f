"""Loaded by the tests' SkyPilot API server (plugins.yaml): what would make or start a machine in a cloud waits."""

import json
import os
import time
from pathlib import Path

from sky import exceptions
from sky.server import plugins


def noted(what, cluster):
    folder = Path(os.environ["PATRON_STUB"])
    with (folder / "asked.jsonl").open("a") as file:
        file.write(json.dumps({"what": what, "cluster": cluster}) + "\n")
    return folder


def stubbed(what):
    """Noted, then as long as nothing is let happen: on its way, as a machine that is not to be had."""

    def call(*_args, **asked):
        folder = noted(what, str(asked.get("cluster_name")))
        while not (folder / "fail").exists():
            time.sleep(0.1)
        raise exceptions.ResourcesUnavailableError("no machine for the controller")

    return call


def ended(cluster_name, *_args, **_asked):
    """At once. The server hands it to another process, by its name."""
    from sky import global_user_state

    noted("down", cluster_name)
    global_user_state.remove_cluster(cluster_name, terminate=True)


class StubPlugin(plugins.BasePlugin):
    def install(self, extension_context):
        from sky import check, core, execution, global_user_state
        from sky.backends import backend_utils
        from sky.utils.registry import CLOUD_REGISTRY

        def enabled(*_args, **_asked):  # as a `sky check` with credentials would have noted
            return [CLOUD_REGISTRY.from_str(name) for name in ("gcp", "aws")]

        def unchanged(cluster_name, *_args, **_asked):  # what SkyPilot knows of its clusters is what is noted
            return global_user_state.get_cluster_from_name(cluster_name)

        backend_utils._update_cluster_status = unchanged
        check.get_cached_enabled_clouds_or_refresh = enabled
        global_user_state.get_cached_enabled_clouds = enabled
        execution.launch = stubbed("launch")
        core.start = stubbed("start")
        core.user_initiated_down = ended
