/** Requests to the server of this page. Addresses are relative. The page therefore also works behind a proxy that adds a path. */

/** An error reply. If there was no reply, `status` is 0. */
export class ApiError extends Error {
  /** @param {number} status @param {string} code @param {string} message */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * Returns the URL path of an API route of a run.
 * @param {string} run @param {...(string | number)} rest @returns {string}
 */
export function runPath(run, ...rest) {
  return ["api/runs", run, ...rest].map((part, index) => (index ? encodeURIComponent(String(part)) : part)).join("/");
}

/** @param {string} address @param {RequestInit} options @returns {Promise<any>} */
async function request(address, options) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "offline", "The server does not answer. Is `arlarena view` still running?");
  }
  const body = await reply.json().catch(() => null);
  if (reply.ok) return body;
  const { code = "error", message = `status ${reply.status}` } = body?.error ?? {};
  throw new ApiError(reply.status, code, message);
}

/**
 * Returns the JSON of a route.
 * @param {string} path @param {Record<string, unknown>} [query] parameters with empty values are left out
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export function get(path, query = {}, signal = undefined) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return request(text ? `${path}?${text}` : path, { signal });
}

/**
 * Sends JSON and returns the reply.
 * @param {"POST" | "DELETE"} method @param {string} path @param {unknown} [body] @returns {Promise<any>}
 */
export function send(method, path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method, headers, body: method === "DELETE" ? undefined : JSON.stringify(body) });
}

/**
 * A cache of replies that do not change, for example turns of an episode. The reply that was not used for the longest time is dropped first.
 */
export class ReplyCache {
  /** @param {number} size */
  constructor(size) {
    this.size = size;
    /** @type {Map<string, Promise<any>>} */
    this.replies = new Map();
  }

  /** @param {string} path @returns {Promise<any>} */
  get(path) {
    const found = this.replies.get(path) ?? get(path);
    this.replies.delete(path);
    this.replies.set(path, found);
    found.catch(() => this.replies.delete(path));
    if (this.replies.size > this.size) this.replies.delete(this.replies.keys().next().value ?? "");
    return found;
  }
}
