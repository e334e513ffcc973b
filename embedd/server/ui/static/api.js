// Requests to the server that this page came from. Addresses are relative: a path prefix works.

const BASE = new URL("../", location.href);
const STORED_KEY = "embedd-key";

export const address = (path = "") => new URL(path, BASE).href.replace(/\/$/, "");

export const readKey = () => sessionStorage.getItem(STORED_KEY) ?? "";
export const storeKey = (key) => sessionStorage.setItem(STORED_KEY, key);

const STORED_ADMIN_KEY = "embedd-admin-key";
const readAdminKey = () => sessionStorage.getItem(STORED_ADMIN_KEY) ?? "";
export const storeAdminKey = (key) => sessionStorage.setItem(STORED_ADMIN_KEY, key);

/** An answer that is an error; `status` is 0 where no server answered. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let askForKey = null; // called with the reason and the status when a key is missing or does not suffice

export const onMissingKey = (callback) => {
  askForKey = callback;
};

async function send(path, { method = "POST", body, signal } = {}) {
  const [key, adminKey] = [readKey(), readAdminKey()];
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  if (adminKey) headers["X-Api-Key"] = adminKey; // the server looks at both
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`no answer from ${address()}: is the server running?`, 0);
  }
  if (answer.ok) return answer;
  const message = await readError(answer);
  const isCurrent = key === readKey() && adminKey === readAdminKey();
  if (isCurrent && (answer.status === 401 || answer.status === 403)) askForKey?.(message, answer.status);
  throw new ApiError(message, answer.status);
}

async function readError(answer) {
  const text = await answer.text();
  try {
    const { error, message, detail } = JSON.parse(text);
    return error?.message ?? error ?? message ?? detail ?? text;
  } catch {
    return text || `status ${answer.status}`;
  }
}

export const get = async (path) => (await send(path, { method: "GET" })).json();

export const post = async (path, body, signal) => (await send(path, { body, signal })).json();

export const remove = async (path, body) => void (await send(path, { method: "DELETE", body }));

/** The answer of POST with its headers: `{ data, headers, seconds }`. */
export async function measure(path, body) {
  const start = performance.now();
  const answer = await send(path, { body });
  const data = await answer.json();
  return { data, headers: answer.headers, milliseconds: performance.now() - start };
}

async function* readChunks(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function* split(answer, separator) {
  let rest = "";
  for await (const chunk of readChunks(answer)) {
    const pieces = (rest + chunk).split(separator);
    rest = pieces.pop();
    yield* pieces;
  }
  if (rest) yield rest;
}

/** The lines of a long job, each a JSON object; a line with an error is thrown. */
export async function* lines(path, body, signal) {
  for await (const line of split(await send(path, { body, signal }), "\n")) {
    if (!line.trim()) continue;
    const data = JSON.parse(line);
    if (data.error) throw new ApiError(data.error, 200);
    yield data;
  }
}

/** The data of a stream of events. */
export async function* events(path, signal) {
  for await (const event of split(await send(path, { method: "GET", signal }), "\n\n")) {
    if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
  }
}
