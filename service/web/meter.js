// What the reader saw of a generation's speed, in figures. Pure: every time is handed in, in milliseconds.

/** The live rate looks back this far: long enough to be calm, short enough to show a stall. */
const WINDOW_MS = 3000;

/** Below this span a rate measured here says more about the browser's event loop than about the model. */
const MIN_SPAN_MS = 100;

export class Meter {
  /**
   * @param {number} started when the request left
   * @param {number} before deltas that had come before a reload
   * @param {number | null} firstTokenS what it was then, if there had been one
   */
  constructor(started, before = 0, firstTokenS = null) {
    this.started = started;
    this.firstBeforeS = firstTokenS;
    this.first = NaN;
    this.last = NaN;
    this.before = before;
    this.deltas = before;
    /** @type {number[]} */
    this.recent = [];
  }

  /** One piece of text has come; it stands for one token until the service has counted them. */
  delta(/** @type {number} */ now) {
    if (this.deltas === this.before) this.first = now;
    this.last = now;
    this.deltas += 1;
    this.recent.push(now);
  }

  /** Seconds from the request to the first text; NaN before it. */
  get firstTokenS() {
    return this.firstBeforeS ?? (this.first - this.started) / 1000;
  }

  /** Tokens a second over the last seconds; NaN while there is too little to say. */
  liveRate(/** @type {number} */ now) {
    const from = this.recent.findIndex((time) => now - time < WINDOW_MS);
    this.recent = from < 0 ? [] : this.recent.slice(from);
    if (this.deltas > 0 && this.recent.length === 0) return 0;
    return perSecond(this.recent.length - 1, now - this.recent[0]);
  }

  /** Tokens a second over all that came here, for a final count of tokens; NaN if it came too fast to measure. */
  finalRate(/** @type {number} */ tokens) {
    return perSecond(tokens - this.before - 1, this.last - this.first);
  }
}

/** @returns {number} NaN unless the span is long enough to measure */
function perSecond(/** @type {number} */ count, /** @type {number} */ spanMs) {
  return spanMs >= MIN_SPAN_MS ? (count * 1000) / spanMs : NaN;
}
