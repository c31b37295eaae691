// The page's composition: what the reader does goes to the exchange. Its only state is the current one.
import { Exchange } from "./exchange.js";
import * as kept from "./kept.js";
import { authorize, model } from "./service.js";
import * as view from "./view.js";

/** How often the model's name is asked for until there is one. */
const UNNAMED_MS = 2000;

/** @type {Exchange | undefined} */
let current;

view.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = view.prompt.value;
  if (current?.running || !prompt.trim()) return;
  // With another API key the refused request continues: its answer may have begun.
  if (current?.wantsKey && prompt === current.kept.request.prompt) current.retry();
  else current = Exchange.send({ prompt, ...Object.fromEntries(new FormData(view.composer)) });
});

// A wrong number in a closed drawer would stop the form without a word.
view.composer.addEventListener("invalid", (event) => view.open(/** @type {HTMLElement} */ (event.target)), true);

view.prompt.addEventListener("keydown", (event) => {
  // isComposing: Enter that accepts an input method's word is not the end of the prompt.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!current?.running) view.composer.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") current?.stop();
});

view.stop.addEventListener("click", () => current?.stop());
view.retry.addEventListener("click", () => current?.retry());

for (const chip of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll(".chip"))) {
  chip.addEventListener("click", () => {
    if (current?.running) return;
    view.prompt.value = chip.textContent ?? "";
    view.composer.requestSubmit();
  });
}

view.apiKey.addEventListener("input", () => {
  kept.apiKey.write(view.apiKey.value);
  authorize(view.apiKey.value);
});
view.apiKey.addEventListener("change", nameModel);

// A tab that is put away may be ended without another word.
document.addEventListener("visibilitychange", () => current?.keep());
window.addEventListener("pagehide", () => current?.keep());

/** The reading speed is the reader's, so each visit has it. */
function rememberPace() {
  const pace = /** @type {RadioNodeList} */ (view.composer.elements.namedItem("pace"));
  pace.value = kept.pace.read() ?? pace.value;
  view.composer.addEventListener("change", () => kept.pace.write(pace.value));
}

/** A reload finds what the tab had: the key, the prompt, its options, and as much of the answer as had come. */
function remember() {
  view.apiKey.value = kept.apiKey.read() ?? "";
  authorize(view.apiKey.value);
  const last = kept.lastExchange();
  if (!last) return;
  view.prompt.value = last.request.prompt;
  for (const [name, value] of Object.entries(last.request)) {
    const field = view.composer.elements.namedItem(name);
    if (field instanceof HTMLInputElement) field.value = value;
  }
  current = Exchange.restore(last);
}

/** A visitor may be here before the model is loaded, or before there is a key. */
async function nameModel() {
  try {
    view.model(await model());
  } catch (failure) {
    const { status = 0 } = /** @type {import("./service.js").Failure} */ (failure);
    if (status === 401) view.open(view.apiKey);
    if (status === 0 || status >= 500) setTimeout(nameModel, UNNAMED_MS);
  }
}

rememberPace();
remember();
nameModel();
