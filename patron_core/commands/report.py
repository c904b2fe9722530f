"""`patron report`: a run, a search or a sweep as one HTML file that opens anywhere, offline.

patron report --run RUN                  question, forecast, curves, attempts, money, verdict, notes, how to repeat it
patron report --search KEY --out DIR     a search or a sweep, with every decision and all its runs
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from patron_core import verbs
from patron_core.errors import InvalidInput
from patron_core.ui import files, report_page
from patron_core.ui.script import Arguments, open_command


class ReportArguments(Arguments):
    run: str = Field(default="", description="the run, by id or name")
    search: str = Field(default="", description="the search or the sweep, by key, id or name")
    out: str = Field(default="", description="the file to write, or a folder; else here, by its name and id")


def main(argv: Sequence[str]) -> int:
    session = open_command(ReportArguments, argv, prog="report", description=__doc__ or "")
    args = session.args
    if bool(args.run) == bool(args.search):
        session.fail(InvalidInput(["--run or --search: name one of them"], next="patron lab"))
    store = session.open_lab()
    if args.run:
        run = session.call(verbs.report_of_run, store, args.run).value
        assert run is not None
        made, page, its_id, title = run.to_dict(), report_page.of_run(run), run.seen.run.id, run.title
        verdict = run.verdict
    else:
        search = session.call(verbs.report_of_search, store, args.search).value
        assert search is not None
        made, page, its_id, title = search.to_dict(), report_page.of_search(search), search.search.id, search.title
        verdict = search.verdict
    file = session.call(files.write, args.out, page, name=report_page.file_name(title, its_id)).value
    size = len(page.encode())
    session.emit({"file": str(file), "bytes": size} | made, "\n".join([*verdict, "", str(file)]))
    return 0
