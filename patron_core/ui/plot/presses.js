// A press is answered where it is made: its button goes off before anything is sent, and on again where the kernel has
// looked and nothing is under way. What a press means is the kernel's alone, which does what was pressed twice once.

const PATIENCE_MS = 30_000; // without a look: the press came to nobody, or meant nothing

export default {
  render({ model }) {
    if (window.__MARIMO_STATIC__) return; // an export: nobody looks
    const pressed = new Set();
    let patience = 0;
    const show = (button, isOff) => {
      const host = button.getRootNode().host;
      button.disabled = isOff || (host && host.dataset.disabled === "true");
      button.style.opacity = isOff ? 0.5 : "";
      if (isOff) button.setAttribute("aria-busy", "true");
      else button.removeAttribute("aria-busy");
    };
    const showAll = (isOff) => {
      clearTimeout(patience);
      for (const button of pressed) show(button, isOff);
      if (isOff && pressed.size) patience = setTimeout(() => showAll(false), PATIENCE_MS);
      if (!isOff) pressed.clear();
    };
    const press = (event) => {
      const path = event.composedPath();
      const button = path.find((each) => each.localName === "button");
      if (!button || !path.some((each) => each.localName === "marimo-button")) return;
      if (button.disabled) return;
      pressed.add(button);
      setTimeout(() => showAll(true)); // once its own listener, which lets nothing come further, has run
    };
    const looked = () => showAll(model.get("looked")[1]);
    document.addEventListener("click", press, true);
    model.on("change:looked", looked);
    return () => {
      document.removeEventListener("click", press, true);
      model.off("change:looked", looked);
      showAll(false); // whoever is displayed in its place knows of no press
    };
  },
};
