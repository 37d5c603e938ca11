// Small things that every part of the page uses.

/** Make an element; strings among its children are text, never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;

/** The colour of a class, the same everywhere; beyond eight, hatched. */
export function paint(target, bundle, label) {
  const index = Math.max(0, bundle.classes.indexOf(label));
  target.classList.add(`c${index % 8}`);
  target.classList.toggle("hatched", index >= 8);
  return target;
}
