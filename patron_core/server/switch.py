"""The switch between themes, for every page: the system's light or dark, light, dark, projector. Kept in a cookie."""

from __future__ import annotations

import base64
import hashlib
import json

from patron_core.ui import theme

# marimo takes its theme, live, from where an editor around it would say it: an app has no other such place
_SCRIPT = """
const patronLook = (() => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    const said = (document.cookie.match(/(?:^|; )COOKIE=(\\w*)/) || [])[1];
    return THEMES.includes(said) ? said : "";
  };
  const apply = () => {
    const look = kept();
    if (look) root.dataset.look = look; else delete root.dataset.look;
    for (const each of document.querySelectorAll(".patron-look")) each.value = look;
    if (document.body)
      document.body.dataset.vscodeThemeKind = (look ? look === "dark" : dark.matches) ? "vscode-dark" : "vscode-light";
  };
  const control = () => {
    const select = document.createElement("select");
    select.className = "patron-look";
    select.setAttribute("aria-label", "Theme");
    for (const value of ["", ...THEMES]) select.append(new Option(value || "system", value));
    select.value = kept();
    select.addEventListener("change", () => {
      const max_age = select.value ? 365 * 86400 : 0;
      document.cookie = "COOKIE=" + select.value + "; path=/; samesite=strict; max-age=" + max_age;
      apply();
    });
    return select;
  };
  apply();
  document.addEventListener("readystatechange", apply);  // "interactive": before the modules of an app begin
  dark.addEventListener("change", apply);
  addEventListener("focus", apply);  // it may have been changed on another page
  return { control };
})();
"""
SWITCH = _SCRIPT.replace("COOKIE", theme.COOKIE).replace("THEMES", json.dumps(list(theme.THEMES)))
_ALONE = (
    f"{SWITCH}addEventListener('DOMContentLoaded', () => document.querySelector('main').prepend(patronLook.control()));"
)
ALONE = f"<script>{_ALONE}</script>"
ALONE_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(_ALONE.encode()).digest()).decode()}'"
