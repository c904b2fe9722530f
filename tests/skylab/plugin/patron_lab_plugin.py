"""Loaded by the lab's SkyPilot API server (plugins.yaml): what lets real managed jobs run without an internet.

Before it judges a job, SkyPilot's controller wants an answer from a well-known address, to tell a dead network from a
dead machine. Here the API server itself gives it: any HTTP answer counts.
Its job table is read in the server, where it otherwise costs a process that imports all of SkyPilot, for every look.
"""

import os

from sky.server import plugins


class LabPlugin(plugins.BasePlugin):
    def install(self, extension_context):
        from sky.backends import backend_utils
        from sky.jobs import runner
        from sky.jobs import utils as jobs_utils
        from sky.jobs.server import core
        from sky.utils import controller_utils

        class Runner(core._DefaultManagedJobRunner):
            def fetch_managed_job_table(self, *, handle, backend, **asked):
                return jobs_utils.load_managed_job_queue(jobs_utils.dump_managed_job_queue(**asked))

        runner.register(Runner())

        port = os.environ["SKYPILOT_API_SERVER_LOCAL_PORT"]
        backend_utils._TEST_IP_LIST = [f"http://127.0.0.1:{port}/api/health"]
        jobs_utils.JOB_STARTED_STATUS_CHECK_GAP_SECONDS = 10  # a look takes two seconds of a core
        controller_utils.MAX_CONTROLLERS = 1  # each is a process of 160 MB
