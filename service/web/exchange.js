// One prompt and its answer on the page: from the first send, over cuts, retries and reloads, to the end.
import { Generation } from "./generation.js";
import { keepExchange } from "./kept.js";
import { Meter } from "./meter.js";
import * as view from "./view.js";

/**
 * @typedef {import("./service.js").Failure} Failure
 * @typedef {import("./service.js").Request} Request
 * @typedef {import("./view.js").Figures} Figures
 * @typedef {{phase: string, detail: object, figures: Partial<Figures>, failure?: Failure, mayGoOn?: boolean}} End
 * @typedef {{
 *   request: Request,
 *   sentAt: number,
 *   reached?: import("./generation.js").Reached,
 *   text: string,
 *   tokens: number,
 *   firstTokenS: number | null,
 *   end?: End,
 * }} Kept what a reload shows and continues with; sentAt: by the wall clock, in ms
 */

/** How often the live figures change: faster than this nobody can read. */
const FIGURES_MS = 250;

/** A reload repeats a request that may have been accepted for as long as the service surely knows its key, read or not
 * (RILL_RESUME_GRACE_S): after that it could be run a second time, and to ask for that is the reader's choice. */
const REPEAT_MS = 30_000;

const NOT_ANSWERED = "The page was reloaded before the service had answered. Retry sends the same prompt.";

export class Exchange {
  #ticking = 0;

  /** A new one: it starts at once. */
  static send(/** @type {Omit<Request, "key">} */ fields) {
    // The key makes a repeated request attach to this generation: no retry ever starts a second one.
    const request = { ...fields, key: uuid() };
    const exchange = new Exchange({ request, sentAt: Date.now(), text: "", tokens: 0, firstTokenS: null });
    exchange.#go();
    return exchange;
  }

  /** The one that a reload interrupted, or that had ended before it. */
  static restore(/** @type {Kept} */ kept) {
    const exchange = new Exchange(kept);
    view.append(kept.text);
    if (kept.end) exchange.#show(kept.end);
    else if (kept.reached?.stream || Date.now() - kept.sentAt < REPEAT_MS) exchange.#go();
    else exchange.#failed({ message: NOT_ANSWERED }, true);
    return exchange;
  }

  /** @private */
  constructor(/** @type {Kept} */ kept) {
    this.kept = kept;
    this.meter = new Meter(performance.now() - (Date.now() - kept.sentAt), kept.tokens, kept.firstTokenS);
    this.generation = new Generation(kept.request, this.#reader(), kept.reached);
    view.clear();
  }

  get running() {
    return !this.kept.end;
  }

  /** Whether it ended because of its API key, so that it continues with another one. */
  get wantsKey() {
    return this.kept.end?.failure?.status === 401;
  }

  stop() {
    this.generation.stop();
  }

  /** Continues after a failure that allows for that. */
  retry() {
    if (!this.kept.end?.mayGoOn) return;
    this.kept.end = undefined;
    if (!this.meter.deltas) this.meter = new Meter(performance.now());
    view.forgive();
    this.#go();
  }

  /** Writes down what a reload needs; between events it is old, and then a reload reads some of them again. */
  keep() {
    const { meter, generation } = this;
    const firstTokenS = meter.deltas ? meter.firstTokenS : null;
    keepExchange({ ...this.kept, reached: generation.reached, tokens: meter.deltas, firstTokenS });
  }

  #go() {
    this.keep();
    this.#ticking = setInterval(() => this.#figures(this.meter.liveRate(performance.now())), FIGURES_MS);
    this.generation.go();
  }

  /** @returns {import("./generation.js").Reader} */
  #reader() {
    return {
      status: view.status,
      accepted: () => this.keep(),
      text: (delta) => this.#text(delta),
      done: ({ finish_reason, usage, timings }) => {
        const phase = finish_reason === "cancelled" ? "stopped" : "done";
        const tokens = usage?.completion_tokens ?? this.meter.deltas;
        // What the reader saw; for an answer that came in one breath, what the service says it took.
        const seen = this.meter.finalRate(tokens);
        const rate = Number.isNaN(seen) ? timings?.tokens_per_s : seen;
        this.#end({ phase, detail: { finish_reason }, figures: { rate, tokens } });
      },
      failure: (failure, mayGoOn) => this.#failed(failure, mayGoOn),
      stopped: () => this.#end({ phase: "stopped", detail: {}, figures: this.#seen() }),
    };
  }

  #text(/** @type {string} */ delta) {
    this.meter.delta(performance.now());
    this.kept.text += delta;
    if (this.meter.deltas === 1) this.#figures(NaN); // at once: the figure that this page is about
    view.append(delta);
  }

  #failed(/** @type {Failure} */ failure, /** @type {boolean} */ mayGoOn) {
    this.#end({ phase: "failed", detail: { mayGoOn }, figures: this.#seen(), failure, mayGoOn });
  }

  #seen() {
    return { rate: this.meter.finalRate(this.meter.deltas) };
  }

  #end(/** @type {End} */ end) {
    clearInterval(this.#ticking);
    this.kept.end = end;
    this.keep();
    this.#show(end);
  }

  /** Every end: the last text is on the page before the page says that it ended. */
  #show(/** @type {End} */ { phase, detail, figures, failure }) {
    view.flush();
    this.#figures(figures.rate ?? NaN, figures.tokens);
    view.status(phase, detail);
    if (failure) view.problem(failure);
    if (this.wantsKey) view.askForKey();
  }

  #figures(/** @type {number} */ rate, tokens = this.meter.deltas) {
    const paced = Boolean(this.kept.request.pace);
    view.figures({ firstTokenS: this.meter.firstTokenS, rate, tokens, paced });
  }
}

/** crypto.randomUUID exists on secure origins only, and a phone on the same network reads plain HTTP. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
