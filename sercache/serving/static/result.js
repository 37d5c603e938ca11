// Shows what the server answered.

import { element, paint, percent } from "./dom.js";
import { Timeline } from "./timeline.js";

const byId = (id) => document.getElementById(id);

export function showResult(bundle, answer, player) {
  byId("result-heading").textContent = answer.label
    ? `${answer.label}, ${percent(answer.probabilities[answer.label])}`
    : bundle.attributes.map(({ name }) => `${name} ${answer.attributes[name].toFixed(2)}`).join(", ");
  byId("result-facts").textContent = `${answer.id}, ${answer.seconds.toFixed(1)} s`;
  byId("spoken").hidden = !answer.text;
  byId("spoken").textContent = answer.text ? `“${answer.text}”` : "";
  byId("notes").replaceChildren(...answer.notes.map((note) => element("p", { class: "hint" }, `Note: ${note}`)));
  showClasses(bundle, answer);
  showAttributes(bundle, answer);
  showMembers(bundle, answer);
  byId("timeline-box").hidden = answer.windows.length === 0;
  if (answer.windows.length > 0) new Timeline(bundle, answer, player);
  byId("result").hidden = false;
  byId("result-heading").focus({ preventScroll: true });
  byId("result").scrollIntoView({ block: "start" });
}

function showClasses(bundle, answer) {
  byId("classes-box").hidden = bundle.classes.length === 0;
  if (bundle.classes.length === 0) return;
  const members = Object.entries(answer.members);
  const inSet = new Set(answer.conformal_set);
  const sorted = [...bundle.classes].sort((a, b) => answer.probabilities[b] - answer.probabilities[a]);
  const rows = sorted.map((label) => {
    const share = answer.probabilities[label];
    const mark = element("span", { class: "mark", "aria-hidden": "true" }, inSet.has(label) ? "◆" : "");
    const name = element("th", { scope: "row" }, mark, label);
    if (inSet.has(label)) name.append(element("span", { class: "hidden" }, ", in the conformal set"));
    const fill = paint(element("div", { class: "fill" }), bundle, label);
    fill.style.width = `${100 * share}%`;
    const track = element("div", { class: "track", "aria-hidden": "true" }, fill);
    for (const [member, probabilities] of members) {
      if (members.length < 2 || !(label in probabilities)) continue;
      const tick = element("span", { class: "member", title: `${member}: ${percent(probabilities[label])}` });
      tick.style.left = `${100 * probabilities[label]}%`;
      track.append(tick);
    }
    const row = element("tr", {}, name, element("td", {}, track), element("td", {}, percent(share)));
    row.classList.toggle("in-set", inSet.has(label));
    return row;
  });
  byId("classes").tBodies[0].replaceChildren(...rows);
  const sentences = [];
  const share = bundle.card?.coverage ? `${Math.round(100 * bundle.card.coverage)} of 100 times` : "mostly";
  if (inSet.size > 0) sentences.push(`◆ In the conformal set: the truth is ${share} among these.`);
  if (members.length > 1) sentences.push("Thin lines: what each member says by itself.");
  byId("conformal").textContent = sentences.join(" ");
}

function showAttributes(bundle, answer) {
  byId("attributes-box").hidden = bundle.attributes.length === 0;
  const scales = bundle.attributes.map(({ name, low, high }) => {
    const value = answer.attributes[name];
    const knob = element("span", { class: "knob" });
    knob.style.left = `${100 * Math.min(1, Math.max(0, (value - low) / (high - low)))}%`;
    return element("div", { class: "scale" },
      element("div", { class: "scale-head" }, element("span", {}, name), element("b", {}, value.toFixed(2))),
      element("div", { class: "track", "aria-hidden": "true" }, knob),
      element("div", { class: "scale-ends" }, element("span", {}, String(low)), element("span", {}, String(high))));
  });
  byId("attributes").replaceChildren(...scales);
}

function showMembers(bundle, answer) {
  const members = Object.entries(answer.members);
  byId("members-box").hidden = members.length === 0;
  byId("disagreement").textContent = `(${members.length}, disagreement ${percent(answer.disagreement)})`;
  const table = byId("members");
  if (bundle.classes.length === 0) {
    showMemberAttributes(bundle, members, table);
    return;
  }
  const heading = ["Member", ...bundle.classes].map((name) => element("th", { scope: "col" }, name));
  table.tHead.replaceChildren(element("tr", {}, ...heading));
  table.tBodies[0].replaceChildren(...members.map(([member, probabilities]) => {
    const top = Math.max(...bundle.classes.map((label) => probabilities[label] ?? 0));
    const cells = bundle.classes.map((label) => {
      const share = probabilities[label];
      const cell = element("td", {}, share === undefined ? "" : percent(share));
      cell.classList.toggle("top-class", share === top);
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, member), ...cells);
  }));
}

/** Attributes alone: a row per member, a column per attribute. */
function showMemberAttributes(bundle, members, table) {
  const names = bundle.attributes.map(({ name }) => name);
  const heading = ["Member", ...names].map((name) => element("th", { scope: "col" }, name));
  table.tHead.replaceChildren(element("tr", {}, ...heading));
  table.tBodies[0].replaceChildren(...members.map(([member, values]) => element("tr", {},
    element("th", { scope: "row" }, member),
    ...names.map((name) => element("td", {}, values[name] === undefined ? "" : values[name].toFixed(2))))));
}
