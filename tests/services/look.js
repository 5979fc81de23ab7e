// SPDX-License-Identifier: Apache-2.0
// What a person would see at a report of `husk bench`, asked of the browser that shows it: a line
// for each thing that is wrong, in base64. tests/services/report puts the width it set, the theme
// it set and the parts that must be there in the place of the arguments.
((width, theme, parts) => {
  const found = new Set();
  const root = document.documentElement;
  const shown = (text) => `"${text.trim().replace(/\s+/g, " ").slice(0, 50)}"`;

  const light = () => {
    const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g);
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
  };
  const dark = () => light() < 0.3;
  if (dark() !== (theme === "dark")) found.add(`the page is not ${theme}`);
  const toggle = document.getElementById("theme");
  const before = dark();
  toggle.click();
  if (dark() === before) found.add("the button for the theme does nothing");
  toggle.click();

  for (const part of parts) {
    const section = document.getElementById(part);
    if (!section) found.add(`there is no part ${part}`);
    else if (section.innerText.trim().length < 40) found.add(`the part ${part} is empty`);
  }
  for (const link of document.querySelectorAll("nav a")) {
    const to = link.getAttribute("href").slice(1);
    if (!document.getElementById(to)) found.add(`a link leads nowhere: ${to}`);
  }
  for (const study of document.querySelectorAll("section[id^=study-]")) {
    if (!study.querySelector("svg, .instead")) found.add(`the part ${study.id} shows nothing`);
  }

  const texts = () => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const all = [];
    while (walker.nextNode()) {
      const node = walker.currentNode;
      const parent = node.parentElement;
      if (!node.data.trim() || parent.closest("script, style, .skip, option")) continue;
      if (!parent.checkVisibility({ visibilityProperty: true })) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      all.push({ node, parent, rects: [...range.getClientRects()] });
    }
    return all;
  };
  // How far a text goes beyond what may hide it, from the inside to the page.
  const cut = ({ parent, rects }) => {
    for (let box = parent; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      const edge = box.getBoundingClientRect();
      const hides = (overflow) => ["hidden", "clip"].includes(overflow);
      if (["auto", "scroll"].includes(style.overflowX)) return null;
      for (const rect of rects) {
        if (hides(style.overflowX) && (rect.right > edge.right + 1 || rect.left < edge.left - 1)) {
          return "is cut";
        }
        if (hides(style.overflowY) && (rect.bottom > edge.bottom + 2 || rect.top < edge.top - 2)) {
          return "is cut";
        }
        if (box.matches(".card") && (rect.right > edge.right + 1 || rect.left < edge.left - 1)) {
          return "leaves its card";
        }
      }
    }
    const gone = rects.some((rect) => rect.right > width + 1 || rect.left < -1);
    return gone ? "leaves the page" : null;
  };
  const over = (a, b) => a.rects.some((one) => b.rects.some((other) =>
    Math.min(one.right, other.right) - Math.max(one.left, other.left) > 2
    && Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 4));
  const look = (which) => {
    if (root.scrollWidth > root.clientWidth || innerWidth > width) {
      found.add(`${which}it is ${Math.max(root.scrollWidth, innerWidth)} wide, not ${width}`);
    }
    const figures = new Map();
    for (const text of texts()) {
      const what = cut(text);
      if (what) found.add(`${which}${shown(text.node.data)} ${what}`);
      const figure = text.parent.closest("figure");
      if (figure) figures.set(figure, [...figures.get(figure) ?? [], text]);
    }
    for (const all of figures.values()) {
      all.forEach((text, number) => {
        const other = all.slice(number + 1).find((it) => over(text, it));
        if (other) found.add(`${which}${shown(text.node.data)} is over ${shown(other.node.data)}`);
      });
    }
  };

  look("");
  for (const details of document.querySelectorAll("details")) details.open = true;
  // Each figure once, by the hand that shows it.
  for (const views of document.querySelectorAll(".views")) {
    const list = views.querySelector(":scope > .tabs > select");
    const buttons = [...views.querySelectorAll(":scope > .tabs > button")];
    const choices = list ? [...list.options] : buttons;
    choices.forEach((choice, number) => {
      if (list) {
        list.selectedIndex = number;
        list.dispatchEvent(new Event("change"));
      } else {
        choice.click();
      }
      const visible = [...views.querySelectorAll(":scope > .view")].filter((it) => !it.hidden);
      if (visible.length !== 1 || visible[0].dataset.view !== choice.textContent) {
        found.add(`${choice.textContent} is chosen and not shown`);
      }
      look(`${choice.textContent}: `);
    });
  }
  const bytes = new TextEncoder().encode([...found].map((line) => `${line}\n`).join(""));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
})(ARGUMENTS)
