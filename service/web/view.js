// What is on the page, and nothing that decides. Text from the service enters the document as text nodes only.

/** @typedef {{firstTokenS: number, rate: number, tokens: number, paced: boolean}} Figures */

const id = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(name));

export const composer = /** @type {HTMLFormElement} */ (id("composer"));
export const prompt = /** @type {HTMLTextAreaElement} */ (id("prompt"));
export const apiKey = /** @type {HTMLInputElement} */ (id("api-key"));
export const retry = /** @type {HTMLButtonElement} */ (id("retry"));
export const stop = /** @type {HTMLButtonElement} */ (id("stop"));
const send = /** @type {HTMLButtonElement} */ (id("send"));
const progress = /** @type {HTMLProgressElement} */ (id("progress"));

/** The answer is one text node that grows: nothing in it can become an element. */
const words = document.createTextNode("");
id("answer").append(words);

/** Phases in which something is still to come. */
const RUNNING = new Set(["connecting", "queued", "thinking", "answering", "reconnecting"]);

/** A reader this near to the end follows the text; further up, the page stays where it is. */
const NEAR_END_PX = 64;

/** Text that waits for the next frame. */
let pending = "";
let frame = 0;

/** A new exchange: everything of the last one is gone. */
export function clear() {
  flush();
  words.data = "";
  forgive();
  figures({ firstTokenS: NaN, rate: NaN, tokens: 0, paced: false });
  id("exchange").hidden = false;
}

/** What went wrong is tried again. */
export function forgive() {
  id("problem").textContent = "";
  apiKey.ariaInvalid = null;
}

/**
 * @param {string} phase one of connecting, queued, thinking, answering, reconnecting, done, stopped, failed
 * @param {{position?: number, eta_s?: number, progress?: number, finish_reason?: string, mayGoOn?: boolean}} detail
 */
export function status(phase, detail = {}) {
  if (document.body.dataset.phase !== phase) changed(phase, Boolean(detail.mayGoOn));
  write(id("status"), label(phase, detail));
  // Progress is left out: a screen reader is told of phases, not of every percent.
  write(id("announcer"), label(phase, { ...detail, progress: undefined, eta_s: undefined }));
  progress.hidden = !(phase === "queued" || phase === "connecting" || phase === "thinking");
  if (phase === "thinking" && detail.progress !== undefined) progress.value = detail.progress;
  else progress.removeAttribute("value");
}

function changed(/** @type {string} */ phase, /** @type {boolean} */ mayGoOn) {
  document.body.dataset.phase = phase;
  const running = RUNNING.has(phase);
  const held = document.activeElement;
  stop.hidden = !running;
  retry.hidden = !mayGoOn;
  send.disabled = running;
  id("answer").ariaBusy = String(running);
  // A button that vanishes or dims hands its focus to the one that took its place.
  if (running && (held === send || held === retry)) stop.focus({ preventScroll: true });
  if (!running && held === stop) (mayGoOn ? retry : send).focus({ preventScroll: true });
}

/** @returns {string} what the status line says */
function label(/** @type {string} */ phase, /** @type {Parameters<typeof status>[1]} */ detail = {}) {
  switch (phase) {
    case "connecting":
      return "Connecting…";
    case "queued":
      return `Queued ${ordinal(detail.position)}${detail.eta_s ? `, about ${Math.ceil(detail.eta_s)} s` : ""}`.trim();
    case "thinking":
      return detail.progress === undefined ? "Thinking" : `Thinking ${Math.round(detail.progress * 100)} %`;
    case "reconnecting":
      return "Reconnecting…";
    case "done":
      return detail.finish_reason === "length" ? "Done, at the length limit" : "Done";
    default:
      return phase.charAt(0).toUpperCase() + phase.slice(1);
  }
}

function ordinal(/** @type {number | undefined} */ n) {
  if (!n) return "";
  const ending = { one: "st", two: "nd", few: "rd" }[new Intl.PluralRules("en", { type: "ordinal" }).select(n)] ?? "th";
  return `${n}${ending}`;
}

/** Adds text at the next frame: a thousand tokens a second are still at most sixty changes of the document. */
export function append(/** @type {string} */ text) {
  pending += text;
  frame ||= requestAnimationFrame(flush);
}

export function flush() {
  cancelAnimationFrame(frame);
  frame = 0;
  if (!pending) return;
  follow(() => words.appendData(pending));
  pending = "";
}

/** Changes the page and keeps its end in sight for a reader who was there. */
function follow(/** @type {() => void} */ change) {
  const page = document.documentElement;
  const atEnd = page.scrollHeight - window.innerHeight - window.scrollY < NEAR_END_PX;
  change();
  if (atEnd) window.scrollTo(0, page.scrollHeight);
}

export function figures(/** @type {Figures} */ { firstTokenS, rate, tokens, paced }) {
  write(id("first-token"), Number.isNaN(firstTokenS) ? "–" : `${firstTokenS.toFixed(2)} s`);
  write(id("rate"), Number.isNaN(rate) ? "–" : rate.toFixed(rate < 10 ? 1 : 0));
  write(id("rate-unit"), paced ? "tokens/s, paced" : "tokens/s");
  write(id("tokens-unit"), tokens === 1 ? "token" : "tokens");
  write(id("tokens"), tokens ? String(tokens) : "–");
}

export function problem(/** @type {{message: string, code?: string}} */ { message, code }) {
  const sentence = document.createElement("p");
  sentence.textContent = message;
  const name = document.createElement("code");
  name.textContent = code ?? "";
  follow(() => id("problem").append(sentence, ...(code ? [name] : [])));
}

/** The API key is missing or wrong: its field, ready to be filled. */
export function askForKey() {
  apiKey.ariaInvalid = "true";
  open(apiKey);
  apiKey.focus();
  apiKey.select();
}

/** Opens the drawer that a field lies in. */
export function open(/** @type {HTMLElement} */ field) {
  const drawer = field.closest("details");
  if (drawer) drawer.open = true;
}

export function model(/** @type {string} */ name) {
  id("model").textContent = name;
  id("model").hidden = !name;
}

/** Leaves the document alone when nothing changed: a live region repeats what is written again. */
function write(/** @type {HTMLElement} */ element, /** @type {string} */ text) {
  if (element.textContent !== text) element.textContent = text;
}
