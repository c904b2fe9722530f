"""A small mirror of climbmix over HTTP: requests are noted, and can be held or refused."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl

HELD_OUT = 6542


class Mirror(ThreadingHTTPServer):
    """A folder of parquet files. `held` are names whose answer waits for `let_pass`; `refused` answers all with 503."""

    daemon_threads = True

    def __init__(self, folder: Path, parts: dict[int, list[str]], revision: str | None = None) -> None:
        folder.mkdir()
        for index, texts in parts.items():
            pl.DataFrame({"text": texts}).write_parquet(folder / f"shard_{index:05d}.parquet")
        self.asked: list[str] = []
        self.held: set[str] = set()
        self.passing = threading.Event()
        self.refused = False
        mirror = self

        class Handler(SimpleHTTPRequestHandler):
            def do_HEAD(self) -> None:
                if mirror.refused:
                    self.send_error(503)
                else:
                    super().do_HEAD()

            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                mirror.asked.append(name)
                if name in mirror.held:
                    mirror.passing.wait(60)
                if mirror.refused:
                    self.send_error(503)
                else:
                    super().do_GET()

            def end_headers(self) -> None:
                if revision is not None:
                    self.send_header("X-Repo-Commit", revision)
                super().end_headers()

            def translate_path(self, path: str) -> str:
                return super().translate_path("/" + path.rsplit("/", 1)[-1])  # whatever the revision

            def log_message(self, *_: object) -> None:
                """Quiet."""

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[Mirror]:
        with self:
            thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.passing.set()
                self.shutdown()
                thread.join()
