/** HTTP with the server that this page came from: JSON, server-sent events, errors, the API key. */

import { byId } from "./dom.js";

const KEY = "modelworks.key";

export class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "HttpError";
    this.status = status;
  }
}

/** The answer to a GET, or to a POST where there is a `body`, as JSON. Throws `HttpError`. */
export async function fetchJson(path, { body, signal } = {}) {
  return (await send(path, body, signal)).json();
}

/** The server-sent events that answer a POST: `{ name, data }`, the data parsed. Throws `HttpError`. */
export async function* fetchEvents(path, { body, signal }) {
  const response = await send(path, body, signal);
  for await (const { name, data } of readEvents(response.body)) {
    if (data !== "[DONE]") yield { name, data: JSON.parse(data) };
  }
}

/** The events of a stream of bytes (WHATWG HTML, section 9.2). */
export async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new HttpError(0, "The connection to the server was lost.");
      });
      if (done) return;
      const blocks = (rest + value).split(/\r\n\r\n|\n\n|\r\r/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { name: "message", data: [] };
        for (const line of block.split(/\r\n|\n|\r/)) {
          const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line);
          if (field === "event") event.name = text;
          else if (field === "data") event.data.push(text);
        }
        if (event.data.length) yield { name: event.name, data: event.data.join("\n") };
      }
    }
  } finally {
    // Where reading ended early this closes the connection, and so tells the server to stop. After an abort there is
    // nothing left to close, and cancelling repeats the error that the reader was told already.
    await reader.cancel().catch(() => {});
  }
}

async function send(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { accept: "application/json, text/event-stream" };
    if (key) headers.authorization = `Bearer ${key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
    }).catch((error) => {
      throw error.name === "AbortError" ? error : new HttpError(0, "The server cannot be reached. Is it running?");
    });
    if (response.ok) return response;
    if (response.status !== 401) throw new HttpError(response.status, await reason(response));
    await askForKey(key);
  }
}

/** What an error's body says, in OpenAI's shape; a plain sentence where something else answered. */
async function reason(response) {
  const text = await response.text();
  try {
    return sentence(JSON.parse(text).error.message);
  } catch {
    return `The server answered with the status ${response.status}.`;
  }
}

export const sentence = (text) => {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
};

let asking = null;

/** Resolves when there is a key other than `refused`; several requests that need one share the question. */
function askForKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return Promise.resolve();
  asking ??= new Promise((resolve, reject) => {
    const dialog = byId("key");
    const input = byId("key-input");
    input.value = "";
    byId("key-wrong").hidden = !refused;
    dialog.returnValue = "";
    byId("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      asking = null;
      if (dialog.returnValue === "use" && input.value) {
        sessionStorage.setItem(KEY, input.value.trim());
        resolve();
      } else {
        reject(new HttpError(401, "This server needs an API key."));
      }
    };
    dialog.showModal();
  });
  return asking;
}
