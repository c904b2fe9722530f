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

with app.setup:
    from typing import Literal

    import marimo as mo
    from pydantic import Field

    from patron_core import verbs
    from patron_core.ui import drafts, files, inert, note_view, show
    from patron_core.ui.script import Arguments, open_session

    ANY = "any kind"
    KINDS = {ANY: ANY, **{words: kind for kind, words in note_view.WORDS.items()}}
    MOST_SHOWN = 50  # threads on the page


@app.class_definition
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


@app.cell
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


@app.cell
def lab(session):
    store = session.open_lab()
    actor = session.actor
    params = mo.query_params()
    get_saved, set_saved = mo.state(None)
    return actor, get_saved, params, set_saved, store


@app.cell
def about(args, params, session, store):
    _word = args.run or params.get("run") or ""
    about_run = session.call(verbs.find_run, store, _word) if _word else None
    run = about_run.value if about_run else None
    _asked = args.project or params.get("project") or ""
    shown_project = _asked or (run.project if run is not None else verbs.project_to_show(store))
    mo.callout(mo.md(about_run.error_markdown()), kind="warn") if about_run and about_run.failed else None
    return run, shown_project


@app.cell
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


@app.cell
def filters(args, params, run, session, shown_project, store):
    _first = args.kind or params.get("kind")
    _kind = next((words for words, kind in KINDS.items() if kind == _first), ANY)
    kind = mo.ui.dropdown(KINDS, value=_kind, label="Kind")
    text = mo.ui.text(args.text or params.get("text") or "", label="Words", placeholder="all of them", debounce=300)
    _names = {show.one_line(name, 100): name for name in sorted({*verbs.projects(store), shown_project})}
    project = mo.ui.dropdown(_names, value=show.one_line(shown_project, 100), label="Project")
    only_run = mo.ui.switch(value=run is not None, label="Only notes of the run in the address")
    _shown = [kind, text, project, *([only_run] if run is not None else [])]
    None if session.is_script else mo.hstack(_shown, justify="start", gap=1.5, wrap=True)
    return kind, only_run, project, text


@app.cell
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
    notes = _outcome.value
    total = verbs.count_notes(store, project=project.value)
    return notes, total


@app.cell
def together(added, args, notes, project, session, store, total):
    _shown = [added] if added is not None else notes
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


@app.cell
def listing(found, notes, project, session, total):
    _threads = found[:MOST_SHOWN]
    _cut = f", the newest {MOST_SHOWN} of {len(found):,} threads are shown" if len(found) > MOST_SHOWN else ""
    _said = inert.md("{} of {} notes{}", f"{len(notes):,}", f"{total:,}", _cut)
    _file = mo.download(
        lambda: verbs.journal_markdown(project.value, found).encode(),
        filename="journal.md",
        mimetype="text/markdown",
        label="All of these as one Markdown file",
    )
    mo.stop(session.is_script)
    mo.vstack([mo.hstack([mo.md(inert.md("{}", _said)), _file], justify="start"), mo.Html(note_view.threads(_threads))])
    return


@app.cell
def reload():
    again = mo.ui.button(label="Reload", value=0, on_click=lambda count: count + 1)
    return (again,)


@app.cell
def pick(again, project, store):
    # its own list: were it to follow each save, it would redraw the editor under somebody's hands
    again.value
    _notes = verbs.read_notes(store, project=project.value)
    _labels = {show.one_line(f"{n.title or n.body[:50]} ({n.id})", 200): n.id for n in _notes}
    opened = mo.ui.dropdown({"A new note": "", **_labels}, value="A new note", label="Open")
    answered = mo.ui.dropdown({"nothing": "", **_labels}, value="nothing", label="It answers")
    return answered, opened


@app.cell
def editor(actor, again, answered, args, opened, project, session, store):
    base = verbs.read_note(store, opened.value) if opened.value else None
    _about = f"note:{base.id}" if base else f"journal:{project.value}"
    draft = drafts.open_draft(store, _about, actor=actor, note=base, kind=args.kind or "note", title=args.title)
    new_kind = mo.ui.dropdown(
        {words: kind for words, kind in KINDS.items() if kind != ANY},
        value=note_view.WORDS.get(draft.kind, note_view.WORDS["note"]),
        label="Kind",
        on_change=draft.keeper("kind"),
    )
    new_title = mo.ui.text(draft.title, label="Title", full_width=True, debounce=False, on_change=draft.keeper("title"))
    new_body = mo.ui.text_area(draft.body, rows=8, full_width=True, debounce=False, on_change=draft.keeper("body"))
    _heading = inert.md("### Revision {}, by {}", base.revision, base.actor) if base else inert.md("### Write")
    _found = "This is as you left it; it is not saved yet." if draft.is_found else ""
    _fields = [
        mo.md(inert.md("{}\n\n{}", _heading, _found)),
        mo.hstack([opened, *([] if base else [answered]), again], justify="start", gap=1.5),
        mo.hstack([new_kind, new_title], widths=[1, 4]),
        new_body,
    ]
    None if session.is_script else mo.vstack(_fields)
    return base, draft, new_body, new_kind, new_title


@app.cell
def save(answered, base, draft, project, run, session, set_saved, store):
    def keep(_):
        set_saved(
            draft.save(
                session,
                store,
                project=project.value,
                run_id=run.id if run is not None and base is None else None,
                links={"answers": answered.value} if answered.value and base is None else None,
            )
        )

    _button = mo.ui.button(label="Save", kind="success", on_click=keep)
    None if session.is_script else _button
    return


@app.cell
def saved(draft, get_saved, store):
    _outcome = get_saved()
    mo.stop(_outcome is None)
    _is_conflict = _outcome.failed and draft.note_id is not None and _outcome.error["error"]["code"] == "conflict"
    _theirs = verbs.read_note(store, draft.note_id) if _is_conflict else None
    seen_theirs = mo.ui.button(
        label="I have read theirs: mine may follow it", on_click=lambda _: draft.merged_with(_theirs)
    )
    (
        mo.vstack(
            [
                mo.callout(mo.md(_outcome.error_markdown()), kind="danger"),
                *([mo.Html(note_view.note_cards([_theirs])), seen_theirs] if _theirs else []),
            ]
        )
        if _outcome.failed
        else mo.callout(
            mo.md(inert.md("Saved as revision {} of {}.", _outcome.value.revision, _outcome.value.id)), kind="success"
        )
    )
    return


@app.cell
def earlier(base, get_saved, session, store):
    get_saved()
    mo.stop(session.is_script or base is None)
    _all = verbs.revisions(store, base.id)
    mo.accordion({inert.md("{} revisions", len(_all)): mo.Html(note_view.revisions(reversed(_all)))})
    return


if __name__ == "__main__":
    app.run()
