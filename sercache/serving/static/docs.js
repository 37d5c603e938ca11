// The documentation page, drawn from /openapi.json.

import { element } from "./dom.js";

const byId = (id) => document.getElementById(id);
const named = (reference) => reference.split("/").pop();

function typeOf(schema = {}) {
  if (schema.$ref) return named(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.type === "object" && schema.additionalProperties) return `{name: ${typeOf(schema.additionalProperties)}}`;
  if (schema.format === "binary") return "file";
  return schema.type ?? "any";
}

function list(rows) {
  return element("dl", {}, ...rows.flatMap(([term, words]) => [element("dt", {}, term), element("dd", {}, words)]));
}

const properties = (schema) => Object.entries(schema.properties ?? {}).map(([name, property]) => {
  const isNeeded = (schema.required ?? []).includes(name);
  return [name, [typeOf(property), isNeeded ? "" : "optional", property.description ?? ""].filter(Boolean).join(". ")];
});

function operation(path, verb, described) {
  const parts = [element("h3", {}, element("span", { class: "verb" }, verb.toUpperCase()), element("code", {}, path)),
    element("p", {}, element("b", {}, described.summary))];
  for (const paragraph of (described.description ?? "").split("\n\n").filter(Boolean)) {
    parts.push(element("p", {}, paragraph.replaceAll("`", "")));
  }
  if (described.parameters?.length) {
    parts.push(element("h4", {}, "Query"), list(described.parameters.map((one) => [one.name,
      [typeOf(one.schema), one.description].filter(Boolean).join(". ")])));
  }
  for (const [type, content] of Object.entries(described.requestBody?.content ?? {})) {
    const rows = properties(content.schema);
    parts.push(element("h4", {}, `Body: ${type}`), rows.length ? list(rows) : element("p", { class: "hint" }, "The recording itself."));
  }
  const answers = Object.entries(described.responses).map(([status, response]) => {
    const schema = response.content?.["application/json"]?.schema;
    return [status, [response.description, schema ? typeOf(schema) : ""].filter(Boolean).join(": ")];
  });
  parts.push(element("h4", {}, "Answers"), list(answers));
  return element("article", {}, ...parts);
}

const api = await (await fetch("/openapi.json")).json();
byId("title").textContent = `${api.info.title} ${api.info.version}`;
byId("summary").textContent = api.info.summary ?? "";
byId("example").textContent = `curl -F file=@clip.wav -F windows=true ${location.origin}/api/predict`;
byId("operations").replaceChildren(...Object.entries(api.paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, described]) => operation(path, verb, described))));
byId("schemas").replaceChildren(...Object.entries(api.components.schemas)
  .filter(([name]) => !/ValidationError$/.test(name))
  .map(([name, schema]) => element("article", {}, element("h3", {}, name),
    element("p", {}, schema.description ?? ""), list(properties(schema)))));
