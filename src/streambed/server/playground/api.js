const ROOT = new URL("..", import.meta.url);
const BATCH_TEXTS = 32;
const BATCH_CHARACTERS = 60_000;

/** Where streams are. @returns {URL} */
export function streamAddress() {
  const address = new URL("v1/embeddings", ROOT);
  address.protocol = address.protocol.replace("http", "ws");
  return address;
}

/** A refusal, or no answer at all (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return [0, 429, 502, 503, 507].includes(this.status);
  }
}

async function request(path, method = "GET", body = undefined, signal = undefined) {
  let response;
  try {
    response = await fetch(new URL(path, ROOT), {
      method,
      signal,
      credentials: "same-origin",
      cache: "no-store",
      ...(body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (response.status === 401 && path[0] === "v") dispatchEvent(new Event("locked"));
  if (response.status === 204) return null;
  if (response.ok) return response.json();
  const { error } = await response.json().catch(() => ({})); // a proxy's error is a page
  throw new ApiError(response.status, error?.message ?? `The server answered ${response.status}.`);
}

/** `/info`. @param {AbortSignal} [signal] @returns {Promise<object>} */
export const info = (signal) => request("info", "GET", undefined, signal);

/** The OpenAPI document, for `/docs`. @returns {Promise<object>} */
export const reference = () => request("openapi.json");
reference.address = new URL("openapi.json", ROOT).href;

/** Shows the key once; a cookie stands for it from then on. @param {string} key */
export const enter = (key) => request("playground/key", "POST", { api_key: key });

/** Forgets the cookie. */
export const leave = () => request("playground/key", "DELETE");

/**
 * @param {string} encoded base64 of little-endian float32
 * @returns {Float32Array}
 */
export function vectorOf(encoded) {
  const binary = atob(encoded);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

/**
 * `POST /v1/embeddings`.
 * @param {object} facts of `/info`
 * @param {string | string[]} input
 * @param {{kind?: "query" | "document", signal?: AbortSignal, fields?: object}} [options]
 * @returns {Promise<{vectors: Float32Array[], usage: object}>}
 */
export async function embed(facts, input, { kind = "document", signal, fields = {} } = {}) {
  const body = { model: facts.served_model_names[0], input, encoding_format: "base64", ...promptFor(facts, kind), ...fields };
  const reply = await request("v1/embeddings", "POST", body, signal);
  const vectors = new Array(reply.data.length);
  for (const item of reply.data) vectors[item.index] = vectorOf(item.embedding);
  return { vectors, usage: reply.usage };
}

/** The prompt of a side of a search, where the checkpoint has one. */
export function promptFor(facts, kind) {
  return facts.prompts?.[kind] === undefined ? {} : { input_type: kind };
}

/**
 * Embeds many texts in batches; waits and tries again while the server is busy.
 * @param {object} facts of `/info`
 * @param {string[]} texts
 * @param {(vectors: Float32Array[], first: number) => void} take told of each batch
 * @param {AbortSignal} signal
 */
export async function embedAll(facts, texts, take, signal) {
  for (let first = 0, wait = 500; first < texts.length; ) {
    let last = first;
    for (let size = 0; last < texts.length && last - first < BATCH_TEXTS; last++) {
      size += texts[last].length;
      if (size > BATCH_CHARACTERS && last > first) break;
    }
    try {
      const { vectors } = await embed(facts, texts.slice(first, last), { signal, fields: { priority: "bulk" } });
      take(vectors, first);
      first = last;
      wait = 500;
    } catch (error) {
      if (!error.passing || wait > 16_000) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait));
      signal.throwIfAborted();
      wait *= 2;
    }
  }
}

