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
    from patron_core.ui import inert, notes, show
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
    FROM_ADDRESS = frozenset({"project", "kind", "text", "run", "add", "title"})


@app.cell
def title():
    session = open_session(
        JournalArguments,
        mode=mo.app_meta().mode,
        request=mo.app_meta().request,
        address=mo.query_params().to_dict(),
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
    found = _outcome.value
    return (found,)


@app.cell
def listing(added, found, project, session):
    _shown = [added] if added is not None else found
    session.emit(
        {"project": project.value, "notes": [vars(note) for note in _shown]},
        "\n\n".join(
            f"{show.moment(n.updated_at)}  {n.kind}  {n.id}  {n.run_id or ''}\n{n.title}\n{n.body}".rstrip()
            for n in _shown
        )
        or "No notes.",
    )
    mo.Html(notes.note_cards(found, empty="No note is like that."))
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
def editor(actor, again, args, get_saved, opened, project, run_id, session, set_saved, store):
    # drawn anew by a save: what somebody typed is in the draft
    get_saved(), again.value
    base = verbs.read_note(store, opened.value) if opened.value else None
    _new = {"kind": args.kind or "note", "title": args.title, "body": args.add}
    _about = f"note:{base.id}" if base else f"journal:{project.value}:{run_id or ''}"
    draft = notes.open_draft(store, _about, actor=actor, note=base, **_new)

    def keep(*, over=None):
        if over is not None:
            draft.merged_with(over)
        set_saved(draft.save(session, store, project=project.value, run_id=run_id))

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
    _head = [mo.md(inert.paragraphs([_left])), mo.hstack([opened, again], justify="start")]
    None if session.is_script else mo.vstack([*_head, *_text])
    return


@app.cell
def saved(get_saved):
    _outcome = get_saved()
    mo.stop(_outcome is None)
    mo.stop(_outcome.failed, mo.callout(mo.md(_outcome.error_markdown()), kind="danger"))
    _words = inert.md("Saved as revision {} of {}.", _outcome.value.revision, _outcome.value.id)
    mo.callout(mo.md(inert.paragraphs([_words])), kind="success")
    return


if __name__ == "__main__":
    app.run()
