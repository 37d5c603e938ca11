// The strip of windows. Windows overlap; each is drawn up to the middle between its centre and its neighbours'.

import { element, paint, percent } from "./dom.js";

const TICKS = 5;

export class Timeline {
  constructor(bundle, answer, player) {
    this.bundle = bundle;
    this.windows = answer.windows;
    this.player = player;
    this.total = answer.seconds;
    this.strip = document.getElementById("timeline");
    this.words = document.getElementById("window");
    this.draw();
    this.select(0);
    this.strip.onkeydown = (event) => this.move(event);
    player.ontimeupdate = () => this.follow();
  }

  draw() {
    const centres = this.windows.map((window) => (window.start_seconds + window.end_seconds) / 2);
    const edges = centres.slice(1).map((centre, index) => (centre + centres[index]) / 2);
    this.edges = [0, ...edges, this.total];
    this.buttons = this.windows.map((window, index) => {
      const said = heard(this.bundle, window);
      const label = window.label
        ? `${span(window)}: ${said}, ${percent(window.probabilities[window.label])}`
        : `${span(window)}: ${said}`;
      const button = element("button", { type: "button", title: label, "aria-label": label }, said);
      button.style.width = `${(100 * (this.edges[index + 1] - this.edges[index])) / this.total}%`;
      button.onclick = () => {
        this.select(index);
        this.player.currentTime = window.start_seconds;
      };
      return window.label ? paint(button, this.bundle, window.label) : shade(button, this.bundle, window);
    });
    this.playhead = element("div", { class: "playhead", "aria-hidden": "true" });
    this.strip.replaceChildren(...this.buttons, this.playhead);
    this.place(0);
    const ticks = Array.from({ length: TICKS }, (_, index) => {
      const share = index / (TICKS - 1);
      const tick = element("span", {}, `${(share * this.total).toFixed(this.total < 20 ? 1 : 0)} s`);
      tick.style.left = `${100 * share}%`;
      return tick;
    });
    document.getElementById("ticks").replaceChildren(...ticks);
  }

  select(index) {
    this.selected = index;
    const window = this.windows[index];
    this.buttons.forEach((button, place) => {
      button.tabIndex = place === index ? 0 : -1;
      button.setAttribute("aria-current", String(place === index));
    });
    const classes = Object.entries(window.probabilities ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 3);
    const parts = classes.map(([label, share]) => `${label} ${percent(share)}`);
    const values = Object.entries(window.attributes).map(([name, value]) => `${name} ${value.toFixed(2)}`);
    this.words.textContent = `${span(window)}: ${[parts, values].filter((words) => words.length).map((words) => words.join(", ")).join("; ")}`;
  }

  move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const index = Math.min(this.windows.length - 1, Math.max(0, this.selected + steps[event.key]));
    this.select(index);
    this.buttons[index].focus();
  }

  follow() {
    const now = this.player.currentTime;
    this.place(now);
    if (this.player.paused) return;
    const index = this.edges.findLastIndex((edge) => edge <= now);
    const shown = Math.min(this.windows.length - 1, Math.max(0, index));
    if (shown !== this.selected) this.select(shown);
  }

  place(seconds) {
    this.playhead.style.left = `${Math.min(100, (100 * seconds) / this.total)}%`;
  }
}

/** What a window's button says: its class, or the first attribute where there are no classes. */
const heard = (bundle, window) => window.label ?? `${bundle.attributes[0].name} ${window.attributes[bundle.attributes[0].name].toFixed(1)}`;

/** Attributes alone: a bar as high as the first attribute on its scale. */
function shade(button, bundle, window) {
  const { name, low, high } = bundle.attributes[0];
  const share = Math.min(1, Math.max(0, (window.attributes[name] - low) / (high - low)));
  button.classList.add("scaled");
  button.style.setProperty("--share", `${100 * share}%`);
  return button;
}

const span = (window) => `${window.start_seconds.toFixed(1)} to ${window.end_seconds.toFixed(1)} s`;
