"""Journal: what was believed, what came out, what was decided, and what was tried and failed.

patron journal --kind failed                                 ask before proposing the same again
patron journal --text "warmup rate" --json                   notes that have all these words
patron journal --add "NaN at step 80" --kind failed --title "lr_scale 4 diverges" --run RUN
patron journal --out journal.md                              all of it as one Markdown file
marimo run notebooks/6_journal.py
"""

import marimo

__generated_with = "0.25.0"
app = marimo.App(width="medium", app_title="Patron: journal")

with app.setup(hide_code=True):
    from typing import Literal

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import background, files, inert, notes, onward, show
    from patron_core.ui.script import Arguments, open_session

    ANY = "any kind"
    KINDS = {ANY: ANY, **{words: kind for kind, words in notes.WORDS.items()}}
    MOST_SHOWN = 50  # threads on the page


@app.cell(hide_code=True)
def title():
    session = open_session(
        JournalArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        file=__file__,
        description="Notes of a project: read, find and write. Nothing written is lost.",
    )
    args = session.args
    mo.md(
        """
        # Journal

        What was believed, what came out, and what was tried and failed. Look here before you spend money on an idea.
        """
    )
    return args, session


@app.class_definition(hide_code=True)
class JournalArguments(Arguments):
    project: str = Field(default="", description="project of the notes; without it the one that has runs")
    kind: Literal["note", "hypothesis", "result", "decision", "failed"] | None = Field(
        default=None, description="only this kind; failed is what was tried and rejected; with --add, the note's kind"
    )
    text: str = Field(default="", description="only notes with all these words in title or body")
    run: str = Field(default="", description="only notes of this run; with --add, the run it is about")
    add: str = Field(default="", description="write a note with this body")
    title: str = Field(default="", description="title of the note that is added")
    answers: str = Field(default="", description="with --add, the note, a hypothesis say, that it answers")
    out: str = Field(default="", description="write the notes that are shown into this Markdown file")


@app.cell(hide_code=True)
def lab(session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    get_saved, set_saved = mo.state(None)
    get_work, set_work = mo.state(None)  # a note on its way
    return actor, get_saved, get_work, params, set_saved, set_work, store


@app.cell(hide_code=True)
def about(args, params, session, store):
    _word = args.run or params.get("run") or ""
    about_run = session.call(verbs.find_run, store, _word) if _word else None
    run = about_run.value if about_run else None
    _named = params.get("project")
    _asked = args.project or (_named if _named in verbs.projects(store) else "")  # an address makes no project
    run_id = run.id if run is not None else None
    shown_project = _asked or (run.project if run is not None else verbs.project_to_show(store))
    _none = onward.no_such_project(params, {*verbs.projects(store), shown_project}, shown=shown_project)
    _said = onward.problem(params, about_run.error) if about_run and about_run.failed else _none
    mo.md(inert.paragraphs([_said])) if not session.is_script else None
    return run, run_id, shown_project


@app.cell(hide_code=True)
def add_as_script(actor, args, run, session, shown_project, store):
    added = None
    if session.is_script and args.add:
        _answered = session.call(verbs.read_note, store, args.answers).value if args.answers else None
        added = session.call(
            verbs.write_note,
            store,
            project=shown_project,
            body=args.add,
            title=args.title,
            kind=args.kind or "note",
            run_id=run.id if run is not None else None,
            links={"answers": _answered.id} if _answered is not None else None,
            actor=actor,
        ).value
    return (added,)


@app.cell(hide_code=True)
def filters(args, params, run, session, shown_project, store):
    _first = args.kind or (None if params.get("add") else params.get("kind"))  # else it is that of the note to write
    _kind = next((words for words, kind in KINDS.items() if kind == _first), ANY)
    kind = mo.ui.dropdown(KINDS, value=_kind, label="Kind")
    text = mo.ui.text(args.text or params.get("text") or "", label="Words", placeholder="all of them", debounce=300)
    _names = {show.one_line(name, 100): name for name in sorted({*verbs.projects(store), shown_project})}
    project = mo.ui.dropdown(_names, value=show.one_line(shown_project, 100), label="Project")
    only_run = mo.ui.switch(value=run is not None, label="Only notes of the run in the address")
    _shown = [kind, text, project, *([only_run] if run is not None else [])]
    None if session.is_script else mo.hstack(_shown, justify="start", gap=1.5, wrap=True)
    return kind, only_run, project, text


@app.cell(hide_code=True)
def read(added, get_saved, kind, only_run, project, run, session, store, text):
    added, get_saved()
    _outcome = session.call(
        verbs.read_notes,
        store,
        project=project.value,
        run_id=run.id if run is not None and only_run.value else None,
        kind=None if kind.value == ANY else kind.value,
        text=text.value or None,
        limit=None,
    )
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    read_notes = _outcome.value
    total = verbs.count_notes(store, project=project.value)
    return read_notes, total


@app.cell(hide_code=True)
def together(added, args, project, read_notes, session, store, total):
    _shown = [added] if added is not None else read_notes
    found = verbs.threads(store, _shown)
    _written = None
    if session.is_script and args.out:
        _text = verbs.journal_markdown(project.value, found)
        _written = session.call(files.write, args.out, _text, name="journal.md").value
    session.emit(
        {
            "project": project.value,
            "notes": [vars(note) for note in _shown],
            "total": total,
            "threads": [thread.to_dict() for thread in found],
            **({"file": str(_written)} if _written else {}),
        },
        "\n\n".join(
            f"{show.moment(n.updated_at)}  {n.kind}  {n.id}  {n.run_id or ''}\n{n.title}\n{n.body}".rstrip()
            for n in _shown
        )
        or "No notes.",
    )
    return (found,)


@app.cell(hide_code=True)
def listing(found, project, read_notes, session, total):
    _threads = found[:MOST_SHOWN]
    _cut = f", the newest {MOST_SHOWN} of {len(found):,} threads are shown" if len(found) > MOST_SHOWN else ""
    _said = inert.md("{} of {} notes{}", f"{len(read_notes):,}", f"{total:,}", _cut)
    _file = mo.download(
        lambda: verbs.journal_markdown(project.value, found).encode(),
        filename="journal.md",
        mimetype="text/markdown",
        label="All of these as one Markdown file",
    )
    mo.stop(session.is_script)
    mo.vstack([mo.hstack([mo.md(inert.md("{}", _said)), _file], justify="start"), mo.Html(notes.threads(_threads))])
    return


@app.cell(hide_code=True)
def reload():
    again = mo.ui.button(label="Reload", value=0, on_click=lambda count: count + 1)
    return (again,)


@app.cell(hide_code=True)
def pick(again, project, store):
    # its own list: were it to follow each save, it would redraw the editor under somebody's hands
    again.value
    _notes = verbs.read_notes(store, project=project.value)
    _labels = {show.one_line(f"{n.title or n.body[:50]} ({n.id})", 200): n.id for n in _notes}
    opened = mo.ui.dropdown({"A new note": "", **_labels}, value="A new note", label="Open")
    answered = mo.ui.dropdown({"nothing": "", **_labels}, value="nothing", label="It answers")
    return answered, opened


@app.cell(hide_code=True)
def editor(actor, again, answered, args, get_saved, opened, params, project, run_id, session, set_work, store):
    # drawn anew by a save: what somebody typed is in the draft
    get_saved(), again.value
    base = verbs.read_note(store, opened.value) if opened.value else None
    _kind = params.get("kind") if params.get("add") and params.get("kind") in verbs.KINDS else "note"
    _new = {"kind": args.kind or _kind, "title": args.title, "body": args.add or params.get("add") or ""}
    _about = f"note:{base.id}" if base else f"journal:{project.value}:{run_id or ''}"
    draft = notes.open_draft(store, _about, actor=actor, note=base, **_new)

    def keep(*, over=None):
        if over is not None:
            draft.merged_with(over)
        links = {"answers": answered.value} if answered.value and base is None else None
        set_work(draft.keep(session, store, project=project.value, run_id=run_id, links=links))

    fields = draft.elements(mo.ui, keep, rows=8)
    # what somebody saved meanwhile stands beside the text, and is never overwritten unseen
    overtaken = base is not None and draft.base_revision != base.revision
    follow = mo.ui.button(label="Both are in it: save mine as the next revision", on_click=lambda _: keep(over=base))
    _words = inert.md("### Revision {}, by {}", base.revision, base.actor) if base else inert.md("### Write")
    _left = inert.md("{}\n\n*As you left it; not saved yet.*", _words) if draft.is_found else _words
    _mine = [mo.hstack([fields["kind"], fields["title"]], widths=[1, 4]), fields["body"]]
    _theirs = [mo.md("**Saved meanwhile**"), mo.Html(notes.note_cards([base]))] if overtaken else []
    _beside = mo.hstack([mo.vstack([*_mine, follow]), mo.vstack(_theirs)], widths="equal", gap=2)
    _text = [_beside] if overtaken else [*_mine, fields["save"]]
    _head = [
        mo.md(inert.paragraphs([_left])),
        mo.hstack([opened, *([] if base else [answered]), again], justify="start", gap=1.5),
    ]
    None if session.is_script else mo.vstack([*_head, *_text])
    return (base,)


@app.cell(hide_code=True)
def ticking(get_work):
    ticker = mo.ui.refresh(default_interval="1s")
    ticker if get_work() is not None else None
    return (ticker,)


@app.cell(hide_code=True)
def at_once(session):
    # a button goes off where it is pressed, before the server has heard of it
    presses = None if session.is_script else background.presses()
    presses
    return (presses,)


@app.cell(hide_code=True)
def saved(again, get_saved, get_work, presses, set_saved, set_work, ticker):
    ticker, again.value
    if (_came := background.came(get_work, set_work)) is not None:
        set_saved(_came.value)
    presses and presses.look(get_work())
    mo.stop(get_work() is not None, mo.md("Saving ..."))
    _outcome = get_saved()
    mo.stop(_outcome is None)
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    _title = show.one_line(_outcome.value.title or _outcome.value.body, 60)
    _words = inert.md("Saved as revision {} of {}.", _outcome.value.revision, _title)
    mo.callout(mo.md(inert.paragraphs([_words])), kind="success")
    return


if __name__ == "__main__":
    app.run()
