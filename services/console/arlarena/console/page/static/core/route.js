/** Reads and changes the state of the page: the part of its address after "#". Users can share such an address. */

/**
 * @typedef {object} Route
 * @property {string[]} path the parts between slashes, decoded
 * @property {URLSearchParams} query
 */

/** Returns the route in the address. @returns {Route} */
export function current() {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

/** @param {string} text @returns {string} */
function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * Returns an address of this page.
 * @param {(string | number)[]} path
 * @param {Record<string, unknown> | URLSearchParams} [query] parameters with empty values are left out
 * @returns {string}
 */
export function href(path, query = {}) {
  const pairs = query instanceof URLSearchParams ? [...query] : Object.entries(query);
  const given = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  const joined = path.map((part) => encodeURIComponent(String(part))).join("/");
  return `#/${joined}${text ? `?${text.replaceAll("%2C", ",")}` : ""}`;
}

/** Goes to an address. `replace`: adds no entry to the history. @param {string} to @param {boolean} [replace] */
export function go(to, replace = false) {
  if (!replace) location.hash = to;
  else {
    history.replaceState(null, "", to);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}

/**
 * Changes parameters of the address. The view is not drawn again.
 * @param {Record<string, unknown>} changes null and "" remove a parameter
 */
export function setQuery(changes) {
  const { path, query } = current();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") query.delete(name);
    else query.set(name, String(value));
  }
  history.replaceState(null, "", href(path, query));
}
