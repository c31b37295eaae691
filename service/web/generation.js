// One generation: its EventSource, its resume after a cut and its single end. Nothing here touches the document.

/**
 * @typedef {{prompt: string, pace?: string, max_tokens?: string, temperature?: string}} Request
 * @typedef {{message: string, code?: string}} Failure
 * @typedef {{
 *   status(phase: string, detail: {position?: number, eta_s?: number, progress?: number}): void,
 *   text(delta: string): void,
 *   done(detail: {finish_reason?: string, usage?: Record<string, number>, timings?: Record<string, number>}): void,
 *   failure(failure: Failure): void,
 *   stopped(): void,
 * }} Reader
 */

/** The service refuses a request line over 8,190 bytes; this leaves room for the key and for Last-Event-ID. */
const MAX_URL_BYTES = 6 * 1024;

/** After "Reconnecting…": an open connection that is not cut again for so long counts as restored. */
const SETTLED_MS = 1000;

/** An EventSource gives up on any status but 200; the page then opens a new one, after these waits. */
const REOPEN_MS = [500, 1000, 2000, 4000, 8000, 8000, 8000];

export class Generation {
  #url = "";
  #lastId = "";
  #lastText = -1;
  #attempt = 0;
  #shown = "";
  #ended = false;
  #timer = 0;
  /** @type {[string, object]} */
  #status = ["connecting", {}];
  /** @type {EventSource | undefined} */
  #source;

  /** @param {Request} request @param {Reader} reader */
  constructor(request, reader) {
    this.reader = reader;
    this.#show("connecting");
    address(request).then(
      (url) => {
        this.#url = url;
        if (!this.#ended) this.#open(url);
      },
      (refusal) => this.#fail(refusal),
    );
  }

  /** Leaves the stream and asks the service to free its place. */
  stop() {
    if (this.#ended) return;
    const stream = streamOf(this.#lastId);
    this.#end(() => this.reader.stopped());
    // Before the first id there is nothing to name; the service sees the reader leave.
    if (stream) fetch(`v1/streams/${encodeURIComponent(stream)}`, { method: "DELETE", keepalive: true }).catch(() => {});
  }

  #open(/** @type {string} */ url) {
    const source = (this.#source = new EventSource(url));
    source.onopen = () => this.#later(SETTLED_MS, () => this.#tell(...this.#status));
    source.onerror = () => this.#cut(source);
    /** @type {Record<string, (data: any, event: MessageEvent) => void>} */
    const handlers = {
      message: (data, event) => this.#text(data.text, numberOf(event.lastEventId)),
      status: (data) => this.#show(data.phase, data),
      done: (data) => this.#end(() => this.reader.done(data)),
      failure: (data) => this.#fail(data.error ?? data),
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => this.#take(/** @type {MessageEvent} */ (event), handle));
    }
  }

  /** Every event comes through here: it belongs to this stream, or the generation fails. */
  #take(/** @type {MessageEvent} */ event, /** @type {(data: any, event: MessageEvent) => void} */ handle) {
    if (this.#ended) return;
    const known = streamOf(this.#lastId);
    if (known && streamOf(event.lastEventId) !== known) {
      this.#fail({ message: "The connection came back with another answer than this one.", code: "stream_changed" });
      return;
    }
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      this.#fail({ message: "The service sent something this page cannot read.", code: "bad_event" });
      return;
    }
    this.#lastId = event.lastEventId;
    this.#attempt = 0;
    clearTimeout(this.#timer);
    handle(data, event);
  }

  /** A resume that begins too early must not repeat text, so numbers only rise. */
  #text(/** @type {string} */ text, /** @type {number} */ number) {
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
    if (source.readyState === EventSource.CLOSED && !this.#lastId) {
      refusal().then((failure) => this.#fail(failure));
    } else if (source.readyState === EventSource.CLOSED) {
      this.#reopen();
    } else {
      this.#tell("reconnecting");
    }
  }

  #reopen() {
    const wait = REOPEN_MS[this.#attempt++];
    if (wait === undefined) {
      this.#fail({ message: "The connection was lost and did not come back.", code: "connection_lost" });
      return;
    }
    this.#tell("reconnecting");
    const resume = `last_event_id=${encodeURIComponent(this.#lastId)}`;
    this.#later(wait * (0.75 + Math.random() / 2), () => this.#open(`${this.#url}&${resume}`));
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

/**
 * Where the stream of a request is read. The key makes a repeated GET attach to the generation instead of starting it again.
 * @param {Request} request
 * @returns {Promise<string>} rejects with a Failure
 */
async function address(request) {
  const query = new URLSearchParams({ prompt: request.prompt, key: uuid() });
  for (const name of /** @type {const} */ (["pace", "max_tokens", "temperature"])) {
    const value = request[name];
    if (value) query.set(name, value);
  }
  const url = `stream?${query}`;
  if (url.length <= MAX_URL_BYTES) return url; // percent-encoded, so characters are bytes
  // POST /v1/streams takes any length and answers {id, url}: its url is what this function will then return.
  const failure = { message: `This prompt is too long for this page: ${kib(url.length)} KB where ${kib(MAX_URL_BYTES)} KB fit in an
    address. Shorten it, or send it with POST /stream.`.replace(/\s+/g, " "), code: "prompt_too_long" };
  throw failure;
}

/** Why the first connection was turned away: an EventSource does not tell, and asking again would generate.
 * @returns {Promise<Failure>} */
async function refusal() {
  try {
    const [ready, models] = await Promise.all(["readyz", "v1/models"].map((url) => fetch(url, { cache: "no-store" })));
    if (models.status === 401 || models.status === 403) {
      return { message: "This service asks for an API key, which this page cannot send.", code: "unauthorized" };
    }
    if (ready.status === 503) {
      const { status, reason } = await ready.json().catch(() => ({}));
      return { message: `The service is not ready yet (${reason ?? status ?? "starting"}). Try again in a moment.`, code: "not_ready" };
    }
  } catch {
    return { message: "The service cannot be reached. Check the connection and try again.", code: "unreachable" };
  }
  return { message: "The service refused this request; it may be busy. Try again in a moment.", code: "refused" };
}

/** Ids are `<stream>.<n>` or `<stream>.<n>.<hash>`. */
function streamOf(/** @type {string} */ id) {
  return id.split(".")[0];
}

function numberOf(/** @type {string} */ id) {
  return Number(id.split(".")[1]);
}

function kib(/** @type {number} */ bytes) {
  return (bytes / 1024).toFixed(1).replace(/\.0$/, "");
}

/** crypto.randomUUID exists on secure origins only, and a phone on the same network reads plain HTTP. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
