// What a hand can do with a report. The page is whole without it, and nothing here reads words of
// the results other than to show them as text.
"use strict";
(() => {
  const MOST_TABS = 8;
  const root = document.documentElement;
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };
  const button = (text, parent, act) => {
    const element = make("button", text, parent);
    element.type = "button";
    element.addEventListener("click", () => act(element));
    return element;
  };

  // The theme: that of the system, until another is chosen. A page from a file may store nothing.
  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem("husk-bench-theme"); } catch { return null; }
  };
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("husk-bench-theme", root.dataset.theme); } catch { /* not stored */ }
    name();
  });
  dark.addEventListener("change", name);
  theme.hidden = false;
  name();

  // Figures of the same study one at a time.
  for (const views of document.querySelectorAll(".views")) {
    const figures = [...views.querySelectorAll(":scope > .view")];
    if (figures.length < 3) continue;
    const first = figures.find((figure) => figure.classList.contains("first")) ?? figures[0];
    const show = (chosen) => {
      for (const figure of figures) figure.hidden = figure !== chosen;
    };
    const tabs = document.createElement("div");
    tabs.className = "tabs";
    views.prepend(tabs);
    show(first);
    // More than fit beside each other are a list to choose from.
    if (figures.length > MOST_TABS) {
      const list = document.createElement("select");
      list.setAttribute("aria-label", "Which figure is shown");
      for (const figure of figures) make("option", figure.dataset.view, list);
      list.selectedIndex = figures.indexOf(first);
      list.addEventListener("change", () => show(figures[list.selectedIndex]));
      tabs.append(list);
      continue;
    }
    tabs.setAttribute("role", "group");
    tabs.setAttribute("aria-label", "Which figure is shown");
    const press = (chosen) => figures.forEach((figure, number) => {
      tabs.children[number].setAttribute("aria-pressed", String(figure === chosen));
    });
    for (const figure of figures) {
      button(figure.dataset.view, tabs, () => { show(figure); press(figure); });
    }
    press(first);
  }

  // A line by itself.
  for (const chart of document.querySelectorAll(".chart")) {
    const of = [...chart.querySelectorAll("[data-who]")];
    const choose = (who) => {
      chart.classList.toggle("chosen", who !== null);
      for (const one of of) one.classList.toggle("on", one.dataset.who === who);
    };
    let held = null;
    for (const item of chart.querySelectorAll(".legend [data-who]")) {
      const who = item.dataset.who;
      item.tabIndex = 0;
      item.addEventListener("mouseenter", () => choose(who));
      item.addEventListener("mouseleave", () => choose(held));
      item.addEventListener("focus", () => choose(who));
      item.addEventListener("blur", () => choose(held));
      item.addEventListener("click", () => { held = held === who ? null : who; choose(held); });
    }
  }

  // Commands to the clipboard, where there is one.
  if (navigator.clipboard) {
    for (const command of document.querySelectorAll(".command")) {
      button("Copy", command, async (pressed) => {
        await navigator.clipboard.writeText(command.querySelector("code").textContent);
        pressed.textContent = "Copied";
        setTimeout(() => { pressed.textContent = "Copy"; }, 1500);
      });
    }
  }

  for (const place of document.querySelectorAll(".save")) {
    button("Save results.json", place, () => {
      const data = document.getElementById("data").textContent;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([data], { type: "application/json" }));
      link.download = "results.json";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
})();
