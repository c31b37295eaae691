// What outlives a reload. In the tab alone: the API key and the exchange. In the browser: the reading speed.

/** @typedef {import("./exchange.js").Kept} Kept */

/** A text in one of the browser's storages. Private windows may refuse them, and a long answer may not fit: then what
 * was there before stays, or nothing. */
class Slot {
  constructor(/** @type {() => Storage} */ storage, /** @type {string} */ name) {
    this.storage = storage;
    this.name = name;
  }

  /** @returns {string | null} null: nothing is kept */
  read() {
    try {
      return this.storage().getItem(this.name);
    } catch {
      return null;
    }
  }

  write(/** @type {string} */ text) {
    try {
      this.storage().setItem(this.name, text);
    } catch {
      // The page works without; it only forgets.
    }
  }
}

export const pace = new Slot(() => localStorage, "rill.pace");
export const apiKey = new Slot(() => sessionStorage, "rill.key");
const exchange = new Slot(() => sessionStorage, "rill.exchange");

/** @returns {Kept | null} the tab's last exchange */
export function lastExchange() {
  return JSON.parse(exchange.read() ?? "null");
}

export function keepExchange(/** @type {Kept} */ kept) {
  exchange.write(JSON.stringify(kept));
}
