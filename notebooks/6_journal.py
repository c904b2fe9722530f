"""Journal: what was believed, what came out, what was decided, and what was tried and failed.

patron journal --kind failed                                 ask before proposing the same again
patron journal --add "NaN at step 80" --kind failed --title "lr_scale 4 diverges" --run RUN
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
    from patron_core.ui import inert, show, tables
    from patron_core.ui.script import Arguments, open_session

    ANY = "any"


@app.class_definition
class JournalArguments(Arguments):
    project: str = Field(default="", description="project of the notes; without it the one that has runs")
    kind: Literal["note", "hypothesis", "result", "decision", "failed"] | None = Field(
        default=None, description="only this kind; with --add, the kind of the note"
    )
    text: str = Field(default="", description="only notes with these words in title or body")
    run: str = Field(default="", description="only notes of this run; with --add, the run it is about")
    add: str = Field(default="", description="write a note with this body")
    title: str = Field(default="", description="title of the note that is added")


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
    get_saved, set_saved = mo.state(None)
    return actor, get_saved, set_saved, store


@app.cell
def about(args, session, store):
    _run = session.call(verbs.find_run, store, args.run).value if args.run else None
    run_id = _run.id if _run is not None else None
    shown_project = args.project or (_run.project if _run is not None else verbs.project_to_show(store))
    return run_id, shown_project


@app.cell
def add_as_script(actor, args, run_id, session, shown_project, store):
    added = None
    if session.is_script and args.add:
        added = session.call(
            verbs.write_note,
            store,
            project=shown_project,
            body=args.add,
            title=args.title,
            kind=args.kind or "note",
            run_id=run_id,
            actor=actor,
        ).value
    return (added,)


@app.cell
def filters(args, session, shown_project):
    kind = mo.ui.dropdown([ANY, *verbs.KINDS], value=args.kind or ANY, label="Kind")
    text = mo.ui.text(args.text, label="Words", debounce=True)
    project = mo.ui.text(shown_project, label="Project")
    None if session.is_script else mo.hstack([kind, text, project], justify="start", gap=1.5)
    return kind, project, text


@app.cell
def read(added, get_saved, kind, project, run_id, session, store, text):
    added, get_saved()
    _outcome = session.call(
        verbs.read_notes,
        store,
        project=project.value,
        run_id=run_id,
        kind=None if kind.value == ANY else kind.value,
        text=text.value or None,
    )
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    notes = _outcome.value
    return (notes,)


@app.cell
def listing(added, notes, project, session):
    _shown = [added] if added is not None else notes
    session.emit(
        {"project": project.value, "notes": [vars(note) for note in _shown]},
        "\n\n".join(
            f"{show.moment(n.updated_at)}  {n.kind}  {n.id}  {n.run_id or ''}\n{n.title}\n{n.body}".rstrip()
            for n in _shown
        )
        or "No notes.",
    )
    mo.Html(show.html_table(notes, tables.notes(), empty="No note is like that."))
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
    return (opened,)


@app.cell
def editor(again, args, opened, session, store):
    base = verbs.read_note(store, opened.value) if opened.value else None
    new_kind = mo.ui.dropdown(list(verbs.KINDS), value=base.kind if base else args.kind or "note", label="Kind")
    new_title = mo.ui.text(base.title if base else args.title, label="Title", full_width=True)
    new_body = mo.ui.text_area(base.body if base else "", rows=8, full_width=True, debounce=600)
    _heading = inert.md("### Revision {}, by {}", base.revision, base.actor) if base else inert.md("### Write")
    draft = {"note": base}  # what the text in the fields began from; each save moves it on
    _open = mo.hstack([opened, again], justify="start")
    _fields = [mo.md(inert.md("{}", _heading)), _open, mo.hstack([new_kind, new_title], widths=[1, 4]), new_body]
    None if session.is_script else mo.vstack(_fields)
    return draft, new_body, new_kind, new_title


@app.cell
def save(actor, draft, new_body, new_kind, new_title, project, run_id, session, set_saved, store):
    def keep(_):
        _base = draft["note"]
        _outcome = session.call(
            verbs.write_note,
            store,
            project=project.value,
            body=new_body.value,
            title=new_title.value,
            kind=new_kind.value,
            run_id=run_id,
            note_id=_base.id if _base else None,
            base_revision=_base.revision if _base else None,
            actor=actor,
        )
        if not _outcome.failed:
            draft["note"] = _outcome.value
        set_saved(_outcome)

    _button = mo.ui.button(label="Save", kind="success", on_click=keep)
    None if session.is_script else _button
    return


@app.cell
def saved(get_saved):
    _outcome = get_saved()
    mo.stop(_outcome is None)
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    mo.callout(
        mo.md(inert.md("Saved as revision {} of {}.", _outcome.value.revision, _outcome.value.id)), kind="success"
    )
    return


if __name__ == "__main__":
    app.run()
