"""The bar above every notebook: links that carry project and run, how many alerts nobody has seen, and the theme."""

from __future__ import annotations

import json
from collections.abc import Sequence

from patron_core.server.pages import Notebook
from patron_core.server.switch import SWITCH
from patron_core.ui import theme


def navigation(found: Sequence[Notebook], *, first: str = "/") -> str:
    """For the head of every notebook's page: a bar of links that carry project and run of the address as it is."""
    links = json.dumps([[note.path + "/", note.title] for note in found]).replace("<", "\\u003c")
    script = _BAR_SCRIPT.replace("LINKS", links).replace("FIRST", json.dumps(first))
    return f"<style>{theme.css()}{_BAR_STYLE}</style><script>{SWITCH}{script}</script>"


_BAR_STYLE = """
#patron-bar { position: fixed; inset: 0 0 auto 0; height: 2.5rem; z-index: 40; display: flex; gap: .25rem;
  align-items: center; padding: 0 .75rem; overflow-x: auto; white-space: nowrap; font: 14px/1 system-ui, sans-serif;
  background: var(--p-card); color: var(--p-ink); border-bottom: 1px solid var(--p-line) }
#patron-bar a, #patron-bar select { padding: .45rem .6rem; border-radius: .4rem; color: inherit; text-decoration: none }
#patron-bar select { font: inherit; padding: .3rem; background: var(--p-paper); border: 1px solid var(--p-line) }
#patron-bar a:hover { background: var(--p-line) }
#patron-bar a[data-unseen] { color: var(--p-warn); font-weight: 600 }
#patron-bar a[aria-current] { color: var(--p-accent); font-weight: 600; box-shadow: inset 0 -2px var(--p-accent) }
:focus-visible { outline: 2px solid var(--p-accent) !important; outline-offset: 1px }
#patron-bar :focus-visible { outline-offset: -2px }
/* what ticks is not greyed at each tick */
.marimo-output-stale { filter: none !important; opacity: 1 !important }
/* before marimo has begun the page is no white flash */
body:not(.dark, .light) { background: var(--p-paper) !important }
:root[data-look=projector] body { --foreground: #000; --muted-foreground: var(--p-quiet); --border: var(--p-line) }
body { padding-top: 2.5rem !important }
/* what is fixed inside stays below the bar */
body > #root { height: calc(100vh - 2.5rem); transform: translateZ(0) }
"""

_BAR_SCRIPT = """
addEventListener("DOMContentLoaded", () => {
  const bar = document.createElement("nav");
  bar.id = "patron-bar";
  bar.setAttribute("aria-label", "Notebooks");
  for (const [path, name] of [[FIRST, "Patron"], ...LINKS]) {
    const link = document.createElement("a");
    link.textContent = name;
    link.href = path;
    if (path !== FIRST && location.pathname.endsWith(path)) link.setAttribute("aria-current", "page");
    const carry = () => {
      const carried = new URLSearchParams();
      for (const [key, value] of new URLSearchParams(location.search))
        if (key === "project" || key === "run") carried.set(key, value);
      link.href = path + (carried.size && path !== FIRST ? "?" + carried : "");
    };
    for (const event of ["pointerenter", "focus", "pointerdown", "click"]) link.addEventListener(event, carry);
    carry();
    bar.append(link);
  }
  const alerts = document.createElement("a");
  alerts.href = FIRST + "alerts";
  alerts.style.marginLeft = "auto";
  alerts.textContent = "Alerts";
  alerts.setAttribute("role", "status");
  bar.append(alerts, patronLook.control());
  document.body.prepend(bar);
  let unseen = 0, untitled = "";
  const tell = () => {  // an app may write its title anew: the number is put before it again
    if (!document.title.startsWith("(" + unseen + ") ")) untitled = document.title.replace(/^\\(\\d+\\) /, "");
    if (unseen) document.title = "(" + unseen + ") " + untitled;
    else if (document.title !== untitled) document.title = untitled;
  };
  const look = async () => {
    if (document.hidden && unseen) return;
    try {
      const answer = await fetch(FIRST + "api/alerts?unseen=true&limit=99");
      if (!answer.ok) return;
      const found = (await answer.json()).alerts;
      unseen = found.length;
      alerts.textContent = unseen ? "Alerts (" + unseen + ")" : "Alerts";
      alerts.title = found.slice(0, 5).map(each => each.title).join("\\n");
      alerts.toggleAttribute("data-unseen", unseen > 0);
      tell();
    } catch { /* the server is away: the next look may find it */ }
  };
  look();
  setInterval(look, 15000);
  setInterval(() => { if (unseen) tell(); }, 2000);
});
"""
