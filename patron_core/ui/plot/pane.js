// Text at its end, unless somebody has scrolled up or marked something: then it stays as it is until that is over.

export default {
  render({ model, el }) {
    const pane = document.createElement("pre");
    pane.className = "pp-pane";
    pane.tabIndex = 0;
    el.append(pane);
    const isRead = () => {
      const marked = (el.getRootNode().getSelection ? el.getRootNode() : document).getSelection();
      return marked && !marked.isCollapsed && pane.contains(marked.anchorNode);
    };
    const update = () => {
      const text = model.get("text");
      if (text === pane.textContent || isRead()) return;
      const fromEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight;
      const at = pane.scrollTop;
      pane.textContent = text;
      pane.scrollTop = fromEnd < 8 ? pane.scrollHeight : at;
    };
    model.on("change:text", update);
    update();
    requestAnimationFrame(() => (pane.scrollTop = pane.scrollHeight));
    return () => model.off("change:text", update);
  },
};
