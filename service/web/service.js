// The routes of the service, as this page calls them. Addresses are relative, so that it works below any path.

/**
 * @typedef {{prompt: string, key: string, pace?: string, max_tokens?: string, temperature?: string}} Request
 * @typedef {{message: string, code?: string}} Failure
 */

/** The service refuses a request line over 8,190 bytes; this leaves room for a proxy's path and last_event_id. */
const MAX_URL_BYTES = 6 * 1024;

/** What is said when something before the service answers, which knows nothing of our errors. */
const BY_STATUS = /** @type {Record<number, string>} */ ({
  413: "This prompt is too long for this service.",
  429: "Too many requests at once from here.",
  502: "The service is not running just now.",
  503: "The service is busy just now.",
  504: "The service is too slow to answer just now.",
});

/** The address at which an EventSource starts this request and reads it; "" if the prompt fits into none.
 * @returns {string} */
export function address(/** @type {Request} */ request) {
  const given = Object.entries(request).filter(([, value]) => value);
  const url = `stream?${new URLSearchParams(given)}`;
  return url.length <= MAX_URL_BYTES ? url : ""; // percent-encoded: a character is a byte
}

/** Starts a request of any length without reading it. With a key that has started one it starts no second.
 * @returns {Promise<{id: string, url: string}>} rejects with a Failure */
export async function create(/** @type {Request} */ { prompt, key, pace, max_tokens, temperature }) {
  const body = JSON.stringify({ prompt, key, max_tokens: number(max_tokens), temperature: number(temperature) });
  const headers = { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch("v1/streams", { method: "POST", headers, body });
  } catch {
    throw { message: "The service cannot be reached. Check the connection and try again.", code: "unreachable" };
  }
  if (!answer.ok) throw await failureOf(answer);
  const { id } = await answer.json();
  return { id, url: `v1/streams/${encodeURIComponent(id)}${pace ? `?pace=${pace}` : ""}` };
}

/** Frees a stream's place. Best effort: a service that cannot be told finds out by itself that nobody reads. */
export function cancel(/** @type {string} */ stream) {
  fetch(`v1/streams/${encodeURIComponent(stream)}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/** The name of the model that answers, "" where it may not be known; rejects while it is not known yet. */
export async function model() {
  const answer = await fetch("v1/models");
  if (answer.status >= 500) throw await failureOf(answer);
  const { data } = await answer.json();
  return data?.[0]?.id ?? "";
}

/** @returns {Promise<Failure>} in the service's words, or in ours where it was not the service that refused */
async function failureOf(/** @type {Response} */ answer) {
  const { error } = await answer.json().catch(() => ({}));
  const said = error?.message ?? BY_STATUS[answer.status] ?? "The service refused this request.";
  const wait = Number(answer.headers.get("Retry-After"));
  return { message: wait > 0 ? `${said} Try again in ${wait} s.` : said, code: error?.code ?? `http_${answer.status}` };
}

/** Fields of a form are strings; left out of the JSON when empty. */
function number(/** @type {string | undefined} */ text) {
  return text ? Number(text) : undefined;
}
