// Small things that every part of the page uses.

/** Make an element; strings among its children are text, never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A share in per cent; near the ends with a decimal, so that what is not certain does not look so. */
export const percent = (share) => {
  const isNearEnd = share < 0.0995 || (share >= 0.995 && share < 0.9995);
  return `${(100 * share).toFixed(isNearEnd ? 1 : 0)}\u00a0%`;
};

/** The colour of a class, the same everywhere; beyond eight, hatched. */
export function paint(target, bundle, label) {
  const index = Math.max(0, bundle.classes.indexOf(label));
  target.classList.add(`c${index % 8}`);
  target.classList.toggle("hatched", index >= 8);
  return target;
}
