"""Imported by every Python on the lab's machines. They share this machine's ports, as no machines of a cloud do.

SkyPilot's daemon listens on the first free port from 46590 on, some seconds after it was found free: of two machines
that boot at once, one's daemon would die of it, and be started again, for ever.
"""

import socket
import sys

if "sky.skylet.attempt_skylet" in sys.orig_argv:
    from sky.utils import common_utils

    def find_free_port(start_port: int) -> int:
        with socket.create_server(("", 0)) as server:
            return int(server.getsockname()[1])

    common_utils.find_free_port = find_free_port
