// The page's flow: a recording comes in by drop, choice or microphone, goes to the server, and its answer is shown.

import { asSendable, canRecord, startRecording } from "./audio.js";
import { element } from "./dom.js";
import { showResult } from "./result.js";

const byId = (id) => document.getElementById(id);
const player = byId("player");
let bundle = null;
let recording = null; // while the microphone is open
let asked = null; // the request in flight
let url = null; // of what the player plays

async function begin() {
  try {
    const response = await fetch("/api/bundle");
    if (!response.ok) throw new Error();
    bundle = await response.json();
  } catch {
    showError("The server does not answer. Is it running?");
    return;
  }
  byId("bundle-name").textContent = bundle.name;
  const { max_bytes: bytes, max_seconds: seconds, max_text: characters } = bundle.limits;
  byId("hint").textContent = `wav, flac, ogg, opus, mp3, m4a, webm; up to ${bytes / 1e6} MB and ${seconds} s.`;
  byId("text").maxLength = characters;
  byId("text-box").hidden = !bundle.needs_text;
  byId("text-box").open = bundle.needs_text && !bundle.can_transcribe;
  byId("text-state").textContent = bundle.can_transcribe ? "(transcribed if you leave it empty)" : "(this bundle reads text)";
  showCard(bundle.card);
  if (!canRecord) {
    byId("record").disabled = true;
    byId("hint").textContent += " Recording works on localhost and over https only.";
  }
}

function showCard(card) {
  const { corpus, utterances, speakers } = card.training_data;
  const sentences = [`Learnt from ${utterances.toLocaleString("en")} recordings of ${speakers} speakers (${corpus}).`];
  const scores = card.evaluation?.scores ?? {};
  const score = scores.macro_f1 ?? scores.mean_ccc;
  if (score) {
    const range = score.low === null ? "" : ` (95 %: ${score.low.toFixed(3)} to ${score.high.toFixed(3)})`;
    sentences.push(`On ${card.evaluation.speakers} speakers that it had never heard, ${scores.macro_f1 ? "macro-F1" : "mean CCC"} ${score.value.toFixed(3)}${range}.`);
  }
  byId("card").textContent = sentences.join(" ");
}

async function predict(blob, name) {
  if (bundle === null) return;
  if (asked !== null) asked.abort();
  const mine = new AbortController();
  asked = mine;
  byId("error").hidden = true;
  byId("result").hidden = true;
  player.pause();
  showStatus(`Reading ${name}`);
  try {
    const sendable = await asSendable(blob);
    if (sendable.size > bundle.limits.max_bytes) {
      throw new Error(`${name} is larger than ${bundle.limits.max_bytes / 1e6} MB.`);
    }
    showStatus(`Predicting ${name}`);
    const form = new FormData();
    form.append("text", byId("text").value.trim());
    form.append("windows", byId("windows").checked ? "true" : "false");
    form.append("file", sendable, name);
    const response = await ask(form, mine.signal);
    const answer = await response.json().catch(() => ({ detail: `The server answered ${response.status}.` }));
    if (!response.ok) throw new Error(answer.detail);
    if (mine.signal.aborted) return;
    if (url !== null) URL.revokeObjectURL(url);
    url = URL.createObjectURL(sendable);
    player.src = url;
    showStatus("");
    showResult(bundle, answer, player);
  } catch (error) {
    if (mine.signal.aborted) return;
    showStatus("");
    showError(error.message);
  } finally {
    if (asked === mine) asked = null;
  }
}

async function ask(form, signal) {
  try {
    return await fetch("/api/predict", { method: "POST", body: form, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it running?");
  }
}

function showStatus(words) {
  const spinner = element("span", { class: "spinner", "aria-hidden": "true" });
  byId("status").replaceChildren(...(words ? [spinner, `${words} …`] : []));
  byId("choose").disabled = Boolean(words);
}

function showError(words) {
  byId("error").textContent = words;
  byId("error").hidden = false;
}

async function toggleRecording() {
  const button = byId("record");
  if (recording !== null) {
    const ending = recording;
    recording = null;
    clearInterval(ending.timer);
    button.setAttribute("aria-pressed", "false");
    byId("record-words").textContent = "Record";
    await predict(await ending.stop(), "recording.wav");
    return;
  }
  byId("error").hidden = true;
  button.disabled = true;
  try {
    recording = await startRecording();
  } catch (error) {
    showError(error.name === "NotAllowedError" ? "The browser was not allowed to use the microphone." : "There is no microphone that can be used.");
    return;
  } finally {
    button.disabled = false;
  }
  const started = Date.now();
  const tell = () => {
    const seconds = (Date.now() - started) / 1000;
    byId("record-words").textContent = `Stop (${seconds.toFixed(0)} s)`;
    if (seconds >= bundle.limits.max_seconds - 1) toggleRecording();
  };
  button.setAttribute("aria-pressed", "true");
  recording.timer = setInterval(tell, 500);
  tell();
}

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const kind of ["dragleave", "dragend"]) {
  document.addEventListener(kind, (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) predict(file, file.name);
});
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  if (file) predict(file, file.name);
  event.target.value = ""; // the same file may be chosen again
});
byId("record").addEventListener("click", toggleRecording);

begin();
