// Server-Sent Events from the bytes of a fetch: an EventSource can't send a key, nor say why it was refused.

/** @typedef {{id: string, type: string, data: string}} Event */

/** Text as it comes in, to events. Lines end in LF, as the service's do; an event without its blank line is none. */
export class Parser {
  /** What the service asks to wait before a reconnection, in ms; NaN as long as it has not. */
  retryMs = NaN;
  #rest = "";
  #id = "";
  #type = "";
  /** @type {string[]} */
  #data = [];

  /** @returns {Event[]} those that this text completes */
  push(/** @type {string} */ text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => (line ? this.#field(line) : this.#dispatch()));
  }

  /** @returns {Event[]} none */
  #field(/** @type {string} */ line) {
    const [, name, value] = /** @type {string[]} */ (/^([^:]*):? ?(.*)$/s.exec(line));
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id") this.#id = value;
    else if (name === "retry") this.retryMs = Number(value);
    return []; // a comment (a heartbeat) has no name
  }

  #dispatch() {
    const event = { id: this.#id, type: this.#type || "message", data: this.#data.join("\n") };
    const events = this.#data.length ? [event] : [];
    this.#type = "";
    this.#data = [];
    return events;
  }
}

/** The text of a body piece by piece, until its connection ends, in whatever way. */
export async function* pieces(/** @type {ReadableStream<Uint8Array>} */ body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
    if (done) return;
    yield decoder.decode(value, { stream: true });
  }
}
