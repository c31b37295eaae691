// One generation: its connections, one after the other, and its single end. Nothing here touches the document.
import { Parser, pieces } from "./events.js";
import { cancel, read, start } from "./service.js";

/**
 * @typedef {import("./service.js").Failure} Failure
 * @typedef {import("./service.js").Request} Request
 * @typedef {{
 *   status(phase: string, detail: {position?: number, eta_s?: number, progress?: number}): void,
 *   accepted(): void,
 *   text(delta: string): void,
 *   done(detail: {finish_reason?: string, usage?: Record<string, number>, timings?: Record<string, number>}): void,
 *   failure(failure: Failure, mayGoOn: boolean): void,
 *   stopped(): void,
 * }} Reader mayGoOn: `go` would send the same request again, or continue where its answer broke off
 * @typedef {{stream: string, lastId: string, status: [string, object]}} Reached what a reload needs to continue
 */

/** A service that restarts is back by then (36 s was the longest gap when replicas were killed), and by then a stream
 * without a reader has been given up (RILL_RESUME_GRACE_S, 30 s): to wait longer is the reader's choice. */
const AWAY_MS = 45_000;

/** A connection that brings nothing for so long is dead: there is a heartbeat every 15 s (RILL_HEARTBEAT_S). */
const SILENT_MS = 60_000;

/** After "Reconnecting…": an open connection that is not cut again for so long counts as restored. */
const SETTLED_MS = 1000;

/** The wait before a try: what the service asks for, else this, then twice as long each time up to the most. */
const WAIT_MS = 1000;
const MOST_WAIT_MS = 8000;

const CUT_OFF = "The connection was lost and has not come back. Retry goes on where the answer broke off.";
const LOST = "The service does not have this answer any more. Send the prompt again for a new one.";

export class Generation {
  #ended = true;
  #attempt = 0;
  #awaySince = NaN;
  #waitMs = WAIT_MS;
  #timer = 0;
  #silence = 0;
  #shown = "";
  #connection = new AbortController();

  /** @param {Request} request @param {Reader} reader @param {Reached} [reached] */
  constructor(request, reader, reached = { stream: "", lastId: "", status: ["connecting", {}] }) {
    this.request = request;
    this.reader = reader;
    this.reached = reached;
  }

  /** Starts the request, or continues it where it ended in a failure that allows for that. */
  go() {
    this.#ended = false;
    this.#attempt = 0;
    this.#awaySince = performance.now();
    this.#tell(this.reached.stream ? "reconnecting" : "connecting");
    this.#connect();
  }

  /** Leaves the stream and asks the service to free its place. */
  stop() {
    if (this.#ended) return;
    if (this.reached.stream) cancel(this.reached.stream, this.request);
    this.#end(() => this.reader.stopped());
  }

  async #connect() {
    const { stream, lastId } = this.reached;
    const { signal } = (this.#connection = new AbortController());
    this.#hear();
    let answer;
    try {
      answer = await (stream ? read(stream, lastId, this.request, signal) : start(this.request, signal));
    } catch (failure) {
      return this.#refused(/** @type {Failure} */ (failure));
    }
    this.#accepted(answer.headers.get("X-Stream-Id") ?? "");
    if (this.#ended) return;
    if (answer.status === 204 || !answer.body) return this.#end(() => this.reader.done({})); // there is nothing more
    this.#later(SETTLED_MS, () => this.#restored());
    const parser = new Parser();
    for await (const piece of pieces(answer.body)) {
      this.#hear();
      for (const event of parser.push(piece)) if (!this.#ended) this.#take(event);
      if (parser.retryMs) this.#waitMs = parser.retryMs;
    }
    this.#cut();
  }

  /** The stream has this name; one that was stopped before it had any is cancelled now. */
  #accepted(/** @type {string} */ stream) {
    if (!stream || this.reached.stream) return;
    this.reached.stream = stream;
    if (!this.#ended) return this.reader.accepted();
    cancel(stream, this.request);
    this.#connection.abort();
  }

  /** No stream, for a reason: a service that is away is tried again, and so is one that has let the stream begin. */
  #refused(/** @type {Failure} */ failure) {
    const { code, status = 0 } = failure;
    const began = Boolean(this.reached.stream);
    const isAway = [0, 502, 504].includes(status) || (status >= 500 && this.#attempt > 0);
    if (isAway || (began && (status === 429 || status >= 500))) return this.#cut(failure);
    if (began && (status === 404 || status === 410)) return this.#fail({ message: LOST, code });
    this.#fail(failure, status === 429 || status >= 500 || status === 401 || (began && status === 403));
  }

  #take(/** @type {import("./events.js").Event} */ { id, type, data }) {
    let detail;
    try {
      detail = JSON.parse(data);
    } catch {
      return this.#fail({ message: "The service sent something this page cannot read.", code: "bad_event" });
    }
    // A failure may be about the stream that is missing, and then its id is no stream's.
    if (type === "failure") return this.#failed(detail.error ?? detail);
    const [stream, number] = id.split(".");
    this.#accepted(stream);
    if (stream !== this.reached.stream) {
      const message = "The connection came back with another answer than this one.";
      return this.#fail({ message, code: "stream_changed" });
    }
    this.#settled();
    // A resume that begins too early must not repeat text, so numbers only rise.
    if (Number(number) <= Number(this.reached.lastId.split(".")[1] ?? -1)) return;
    this.reached.lastId = id;
    if (type === "status") this.#show(detail.phase, detail);
    else if (type === "done") this.#end(() => this.reader.done(detail));
    else if (type === "message") this.#text(detail.text);
  }

  #text(/** @type {string} */ text) {
    if (this.#shown !== "answering") this.#show("answering");
    this.reader.text(text);
  }

  #failed(/** @type {Failure} */ { message, code }) {
    this.#fail({ message: code === "stream_lost" ? LOST : message || "The service gave no reason.", code });
  }

  #show(/** @type {string} */ phase, detail = {}) {
    this.reached.status = [phase, detail];
    this.#tell(phase, detail);
  }

  #tell(/** @type {string} */ phase, detail = {}) {
    this.#shown = phase;
    this.reader.status(phase, detail);
  }

  /** The connection ended before the stream, or there was none: another one is tried until the service is long away. */
  #cut(/** @type {Failure} */ why = { message: "" }) {
    if (this.#ended) return;
    const now = performance.now();
    if (Number.isNaN(this.#awaySince)) this.#awaySince = now;
    if (now - this.#awaySince >= AWAY_MS) {
      return this.#fail(this.reached.stream ? { message: CUT_OFF, code: "connection_lost" } : why, true);
    }
    this.#tell("reconnecting");
    clearTimeout(this.#silence);
    const wait = Math.min(this.#waitMs * 2 ** this.#attempt++, MOST_WAIT_MS);
    this.#later(wait * (0.75 + Math.random() / 2), () => this.#connect()); // spread: not all readers at once
  }

  /** The service is there, whatever it has to say. */
  #settled() {
    clearTimeout(this.#timer);
    this.#attempt = 0;
    this.#awaySince = NaN;
  }

  #restored() {
    this.#settled();
    this.#tell(...this.reached.status);
  }

  /** Something has come, so the connection lives; from now on it may be silent for a while. */
  #hear() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#connection.abort(), SILENT_MS);
  }

  #later(/** @type {number} */ ms, /** @type {() => void} */ action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }

  #fail(/** @type {Failure} */ failure, mayGoOn = false) {
    this.#end(() => this.reader.failure(failure, mayGoOn));
  }

  /** The only way out: what is still open is closed, except a request without a stream id to cancel. */
  #end(/** @type {() => void} */ tell) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    if (this.reached.stream) this.#connection.abort();
    tell();
  }
}
