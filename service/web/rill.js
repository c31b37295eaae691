// The page's composition: the form starts a generation, whose events go to the view. Its only state is the current one.
import { Generation } from "./generation.js";
import { Meter } from "./meter.js";
import { model } from "./service.js";
import * as view from "./view.js";

/** How often the live figures change: faster than this nobody can read. */
const FIGURES_MS = 250;

/** How often the model's name is asked for until there is one. */
const UNNAMED_MS = 2000;

const PACE = "rill.pace";

/** @type {Generation | undefined} */
let current;

function start() {
  const fields = Object.fromEntries(new FormData(view.composer));
  const request = { prompt: view.prompt.value, ...fields };
  const paced = Boolean(request.pace);
  const meter = new Meter(performance.now());
  const show = (/** @type {number} */ rate, tokens = meter.deltas) =>
    view.figures({ firstTokenS: meter.firstTokenS, rate, tokens, paced });
  const ticking = setInterval(() => show(meter.liveRate(performance.now())), FIGURES_MS);
  /** Every end: the last text is on the page before the page says that it ended. */
  const end = (/** @type {string} */ phase, detail = {}, tokens = meter.deltas, timings = {}) => {
    clearInterval(ticking);
    current = undefined;
    view.flush();
    show(measured(meter.finalRate(tokens), timings), tokens);
    view.status(phase, detail);
  };
  view.clear();
  current = new Generation(request, {
    status: view.status,
    text: (delta) => {
      meter.delta(performance.now());
      if (meter.deltas === 1) show(NaN); // at once: the figure that this page is about
      view.append(delta);
    },
    done: (detail) => end("done", detail, detail.usage?.completion_tokens, detail.timings),
    failure: (failure) => {
      end("failed");
      view.problem(failure);
    },
    stopped: () => end("stopped"),
  });
}

/** What the reader saw; for an answer that came in one breath, what the service says it took. */
function measured(/** @type {number} */ rate, /** @type {Record<string, number>} */ timings) {
  return Number.isNaN(rate) ? (timings.tokens_per_s ?? NaN) : rate;
}

view.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!current && view.prompt.value.trim()) start();
});

// A wrong number in a closed drawer would stop the form without a word.
view.composer.addEventListener("invalid", (event) => view.open(/** @type {HTMLElement} */ (event.target)), true);

view.prompt.addEventListener("keydown", (event) => {
  // isComposing: Enter that accepts an input method's word is not the end of the prompt.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!current) view.composer.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") current?.stop();
});

view.stop.addEventListener("click", () => current?.stop());

for (const chip of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll(".chip"))) {
  chip.addEventListener("click", () => {
    if (current) return;
    view.prompt.value = chip.textContent ?? "";
    view.composer.requestSubmit();
  });
}

/** The reading speed is the reader's, so it is kept; private windows may refuse, and then it is not. */
function rememberPace() {
  const pace = /** @type {RadioNodeList} */ (view.composer.elements.namedItem("pace"));
  try {
    const kept = localStorage.getItem(PACE);
    if (kept !== null) pace.value = kept;
    view.composer.addEventListener("change", () => localStorage.setItem(PACE, pace.value));
  } catch {
    // Without storage each visit starts at the default.
  }
}

/** A visitor may be here before the model is loaded. */
async function nameModel() {
  try {
    view.model(await model());
  } catch {
    setTimeout(nameModel, UNNAMED_MS);
  }
}

rememberPace();
nameModel();
