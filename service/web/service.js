// The routes of the service, as this page calls them. Addresses are relative, so that it works below any path.

/**
 * @typedef {{prompt: string, key: string, pace?: string, max_tokens?: string, temperature?: string}} Request
 * @typedef {{message: string, code?: string, status?: number}} Failure status: HTTP's; 0 where there was no answer
 */

/** What is said when something before the service answers, which knows nothing of our errors. */
const BY_STATUS = /** @type {Record<number, string>} */ ({
  413: "This prompt is too long for this service.",
  429: "Too many requests at once from here.",
  503: "The service is busy just now.",
});

const NO_KEY = "This service asks for an API key: enter yours above.";
const UNKNOWN_KEY = "The service does not know this API key: correct it above.";
const UNREACHABLE = "The service cannot be reached. Check the connection, then retry.";

/** The API key, "" for none. It is sent in a header and stands nowhere else: an address is logged on its way. */
let apiKey = "";

export function authorize(/** @type {string} */ key) {
  apiKey = key.trim();
}

/** Starts this request and reads it. Its own key makes a repetition attach: no request is ever run twice.
 * @returns {Promise<Response>} rejects with a Failure */
export function start(/** @type {Request} */ request, /** @type {AbortSignal} */ signal) {
  const { prompt, key, pace, max_tokens, temperature } = request;
  const numbers = { pace: number(pace), max_tokens: number(max_tokens), temperature: number(temperature) };
  const body = JSON.stringify({ prompt, key, ...numbers });
  const headers = { "Content-Type": "application/json" };
  return call(`stream?${at(key)}`, { method: "POST", headers, body, signal });
}

/** Reads a stream that has started, on behind the event `last` ("": from the first one on).
 * @returns {Promise<Response>} rejects with a Failure */
export function read(
  /** @type {string} */ stream,
  /** @type {string} */ last,
  /** @type {Request} */ { key, pace },
  /** @type {AbortSignal} */ signal,
) {
  const headers = last ? { "Last-Event-ID": last } : undefined;
  return call(`v1/streams/${encodeURIComponent(stream)}?${at(key, pace)}`, { headers, signal });
}

/** Frees a stream's place. Best effort: a service that cannot be reached notices by itself that there is no reader. */
export function cancel(/** @type {string} */ stream, /** @type {Request} */ { key }) {
  const options = { method: "DELETE", keepalive: true };
  call(`v1/streams/${encodeURIComponent(stream)}?${at(key)}`, options).catch(() => {});
}

/** The name of the model that answers, "" where there is none to tell.
 * @returns {Promise<string>} rejects with a Failure */
export async function model() {
  const { data } = await (await call("v1/models")).json();
  return data?.[0]?.id ?? "";
}

/** The request's key is in every address: by it nginx finds the replica that has the stream, without a Redis too. */
function at(/** @type {string} */ key, pace = "") {
  return new URLSearchParams({ key, ...(pace && { pace }) });
}

async function call(/** @type {string} */ url, /** @type {RequestInit} */ options = {}) {
  const headers = { ...options.headers, ...(apiKey && { Authorization: `Bearer ${bytes(apiKey)}` }) };
  const answer = await fetch(url, { ...options, headers }).catch(() => {
    throw { message: UNREACHABLE, code: "unreachable", status: 0 };
  });
  if (!answer.ok) throw await failureOf(answer);
  return answer;
}

/** @returns {Promise<Failure>} in the service's words, or in ours where it was not the service that refused */
async function failureOf(/** @type {Response} */ answer) {
  const { status } = answer;
  const { error } = await answer.json().catch(() => ({}));
  const code = error?.code ?? `http_${status}`;
  if (status === 401) return { message: apiKey ? UNKNOWN_KEY : NO_KEY, code, status };
  const said = error?.message ?? BY_STATUS[status] ?? "The service refused this request.";
  const wait = Number(answer.headers.get("Retry-After"));
  return { message: wait > 0 ? `${said} Try again in ${wait} s.` : said, code, status };
}

/** Text as a header carries it: a character a byte of its UTF-8, since fetch takes no other. */
function bytes(/** @type {string} */ text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** Fields of a form are strings; left out of the JSON when empty. */
function number(/** @type {string | undefined} */ text) {
  return text ? Number(text) : undefined;
}
