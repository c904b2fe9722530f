// A press is answered where it is made: its button goes off before anything is sent, and on again where the kernel has
// looked and nothing is under way. What a press means is the kernel's alone, which does what was pressed twice once.

export default {
  render({ model }) {
    let pressed = new Set();
    const show = (button, isOff) => {
      const host = button.getRootNode().host;
      button.disabled = isOff || (host && host.dataset.disabled === "true");
      button.style.opacity = isOff ? 0.5 : "";
      if (isOff) button.setAttribute("aria-busy", "true");
      else button.removeAttribute("aria-busy");
    };
    const press = (event) => {
      const path = event.composedPath();
      const button = path.find((each) => each.localName === "button");
      if (!button || !path.some((each) => each.localName === "marimo-button")) return;
      if (button.disabled) return;
      pressed.add(button);
      setTimeout(() => show(button, true)); // once its own listener, which lets nothing come further, has run
    };
    const looked = () => {
      const isOff = model.get("busy");
      for (const button of pressed) show(button, isOff);
      if (!isOff) pressed = new Set();
    };
    document.addEventListener("click", press, true);
    model.on("change:looks", looked);
    return () => {
      document.removeEventListener("click", press, true);
      model.off("change:looks", looked);
    };
  },
};
