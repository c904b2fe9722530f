"""Loaded by the lab's SkyPilot API server (plugins.yaml): what lets real managed jobs run without an internet.

Before it judges a job, SkyPilot's controller wants an answer from a well-known address, to tell a dead network from a
dead machine. Here the API server itself gives it: any HTTP answer counts. The polls come faster than on a cloud.
"""

import os

from sky.server import plugins


class LabPlugin(plugins.BasePlugin):
    def __init__(self, poll_s: float = 5.0):
        self._poll_s = poll_s

    def install(self, extension_context):
        from sky.backends import backend_utils
        from sky.jobs import utils as jobs_utils
        from sky.utils import controller_utils

        port = os.environ["SKYPILOT_API_SERVER_LOCAL_PORT"]
        backend_utils._TEST_IP_LIST = [f"http://127.0.0.1:{port}/api/health"]
        jobs_utils.JOB_STATUS_CHECK_GAP_SECONDS = self._poll_s
        jobs_utils.JOB_STARTED_STATUS_CHECK_GAP_SECONDS = self._poll_s
        controller_utils.MAX_CONTROLLERS = 1  # each is a process of 160 MB
