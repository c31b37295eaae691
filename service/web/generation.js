// One generation: its EventSource, its resume after a cut and its single end. Nothing here touches the document.
import { address, cancel, create } from "./service.js";

/**
 * @typedef {import("./service.js").Failure} Failure
 * @typedef {Omit<import("./service.js").Request, "key">} Request
 * @typedef {{
 *   status(phase: string, detail: {position?: number, eta_s?: number, progress?: number}): void,
 *   text(delta: string): void,
 *   done(detail: {finish_reason?: string, usage?: Record<string, number>, timings?: Record<string, number>}): void,
 *   failure(failure: Failure): void,
 *   stopped(): void,
 * }} Reader
 */

/** After "Reconnecting…": an open connection that is not cut again for so long counts as restored. */
const SETTLED_MS = 1000;

/** An EventSource gives up on any status but 200; the page then opens a new one, after these waits. */
const REOPEN_MS = [500, 1000, 2000, 4000, 8000, 8000, 8000];

export class Generation {
  #url = "";
  #stream = "";
  #lastId = "";
  #lastText = -1;
  #created = false;
  #attempt = 0;
  #ended = false;
  #timer = 0;
  #shown = "";
  /** @type {[string, object]} */
  #status = ["connecting", {}];
  /** @type {EventSource | undefined} */
  #source;

  /** @param {Request} request @param {Reader} reader */
  constructor(request, reader) {
    // The key makes a repeated request attach to this generation: no reconnection ever starts a second one.
    this.request = { ...request, key: uuid() };
    this.reader = reader;
    this.#show("connecting");
    this.#url = address(this.request);
    if (this.#url) this.#open(this.#url);
    else this.#create();
  }

  /** Leaves the stream and asks the service to free its place. */
  stop() {
    if (this.#ended) return;
    if (this.#stream) cancel(this.#stream);
    this.#end(() => this.reader.stopped());
  }

  #open(/** @type {string} */ url) {
    const source = (this.#source = new EventSource(url));
    source.onopen = () => this.#later(SETTLED_MS, () => this.#tell(...this.#status));
    source.onerror = () => this.#cut(source);
    source.addEventListener("message", (event) => this.#take(event, (data) => this.#text(data.text, event)));
    source.addEventListener("status", (event) => this.#take(event, (data) => this.#show(data.phase, data)));
    source.addEventListener("done", (event) => this.#take(event, (data) => this.#end(() => this.reader.done(data))));
    // A failure may be about the stream that is missing, and then its id is no stream's.
    source.addEventListener("failure", (event) => this.#parse(event, (data) => this.#fail(data.error ?? data)));
  }

  /**
   * The same request by POST: for a prompt that no address holds, and for one that was refused, because an
   * EventSource does not say why and a POST does. If the reason has passed meanwhile, the answer simply starts.
   */
  async #create() {
    this.#created = true;
    try {
      const { id, url } = await create(this.request);
      if (this.#ended) return cancel(id); // stopped while it was being made
      this.#stream = id;
      this.#open((this.#url = url));
    } catch (failure) {
      this.#fail(/** @type {Failure} */ (failure));
    }
  }

  /** An event of this stream. One of another would mix two answers: it ends the generation. */
  #take(/** @type {MessageEvent} */ event, /** @type {(data: any) => void} */ handle) {
    if (this.#ended) return;
    const stream = streamOf(event.lastEventId);
    if (this.#stream && stream !== this.#stream) {
      this.#fail({ message: "The connection came back with another answer than this one.", code: "stream_changed" });
      return;
    }
    this.#stream = stream;
    this.#lastId = event.lastEventId;
    this.#attempt = 0;
    clearTimeout(this.#timer);
    this.#parse(event, handle);
  }

  #parse(/** @type {MessageEvent} */ event, /** @type {(data: any) => void} */ handle) {
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      this.#fail({ message: "The service sent something this page cannot read.", code: "bad_event" });
      return;
    }
    handle(data);
  }

  /** A resume that begins too early must not repeat text, so numbers only rise. */
  #text(/** @type {string} */ text, /** @type {MessageEvent} */ event) {
    const number = numberOf(event.lastEventId);
    if (number <= this.#lastText) return;
    this.#lastText = number;
    if (this.#shown !== "answering") this.#show("answering");
    this.reader.text(text);
  }

  #show(/** @type {string} */ phase, detail = {}) {
    this.#status = [phase, detail];
    this.#tell(phase, detail);
  }

  #tell(/** @type {string} */ phase, detail = {}) {
    this.#shown = phase;
    this.reader.status(phase, detail);
  }

  /** The connection broke: the browser tries again by itself, unless a status other than 200 made it give up. */
  #cut(/** @type {EventSource} */ source) {
    if (this.#ended) return;
    clearTimeout(this.#timer);
    if (source.readyState !== EventSource.CLOSED) this.#tell("reconnecting");
    else if (this.#lastId || this.#created) this.#reopen();
    else this.#create();
  }

  #reopen() {
    const wait = REOPEN_MS[this.#attempt++];
    if (wait === undefined) {
      this.#fail({ message: "The connection was lost and did not come back.", code: "connection_lost" });
      return;
    }
    this.#tell("reconnecting");
    const resume = this.#lastId && `${this.#url.includes("?") ? "&" : "?"}last_event_id=${this.#lastId}`;
    this.#later(wait * (0.75 + Math.random() / 2), () => this.#open(this.#url + resume));
  }

  #later(/** @type {number} */ ms, /** @type {() => void} */ action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }

  #fail(/** @type {Failure} */ { message, code }) {
    this.#end(() => this.reader.failure({ message: message || "The service gave no reason.", code }));
  }

  /** The only way out: closed first, so that no EventSource of a finished stream ever reconnects. */
  #end(/** @type {() => void} */ tell) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#source?.close();
    tell();
  }
}

/** Ids are `<stream>.<n>` or `<stream>.<n>.<hash>`. */
function streamOf(/** @type {string} */ id) {
  return id.split(".")[0];
}

function numberOf(/** @type {string} */ id) {
  return Number(id.split(".")[1]);
}

/** crypto.randomUUID exists on secure origins only, and a phone on the same network reads plain HTTP. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
