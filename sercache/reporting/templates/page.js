"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  table.querySelectorAll("thead th").forEach((head) => {
    const column = head.cellIndex;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isNumber = head.classList.contains("number");
      const was = head.getAttribute("aria-sort");
      const down = was ? was === "ascending" : isNumber;
      const key = (row) => row.cells[column].dataset.o ?? row.cells[column].textContent;
      const rows = [...body.rows].sort((first, second) => {
        const [a, b] = [key(first), key(second)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = Number.isNaN(+a) || Number.isNaN(+b) ? a.localeCompare(b) : a - b;
        return down ? -order : order;
      });
      table.querySelectorAll("[aria-sort]").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}
for (const map of document.querySelectorAll(".map")) {
  const svg = map.querySelector("svg");
  const output = map.querySelector("output");
  const points = [...svg.querySelectorAll("circle")];
  const places = points.map((point) => [point.cx.baseVal.value, point.cy.baseVal.value]);
  const labels = points.map((point) => {
    const title = point.querySelector("title");
    const text = title.textContent;
    title.remove(); // the line below the map says it, at once
    return text;
  });
  let current = -1;
  const choose = (place) => {
    if (place === current || place < 0) return;
    if (current >= 0) points[current].classList.remove("on");
    current = place;
    points[place].classList.add("on");
    output.textContent = labels[place];
  };
  const nearest = (x, y, isWanted) => {
    let best = -1, least = Infinity;
    places.forEach(([px, py], place) => {
      const [dx, dy] = [px - x, py - y];
      const far = dx * dx + dy * dy;
      if (far < least && isWanted(dx, dy, place)) [best, least] = [place, far];
    });
    return [best, least];
  };
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const [place, far] = nearest(at.x, at.y, () => true);
    if (far < 150) choose(place);
  });
  const directions = {
    ArrowLeft: (dx, dy) => dx < 0 && Math.abs(dy) <= -dx,
    ArrowRight: (dx, dy) => dx > 0 && Math.abs(dy) <= dx,
    ArrowUp: (dx, dy) => dy < 0 && Math.abs(dx) <= -dy,
    ArrowDown: (dx, dy) => dy > 0 && Math.abs(dx) <= dy,
  };
  svg.addEventListener("focus", () => { if (current < 0) choose(nearest(300, 240, () => true)[0]); });
  svg.addEventListener("keydown", (event) => {
    const isWanted = directions[event.key];
    if (!isWanted || current < 0) return;
    event.preventDefault();
    choose(nearest(...places[current], isWanted)[0]);
  });
}
