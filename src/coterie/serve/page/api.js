// The server's API: one fetch for JSON, one for a stream of events.
let key = sessionStorage.getItem("key") || "";

export function setKey(value) {
  key = value.trim();
  sessionStorage.setItem("key", key);
}

export class ApiError extends Error {
  constructor(status, message, code, wait) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
  get words() {
    if (this.status === 401) return "This server requires an API key. Enter it under Settings, API key.";
    if (this.status === 429) return `The server is busy; try again in ${this.wait || "a few"} seconds.`;
    if (this.status === 503) return "The server is shutting down or not ready: " + this.message;
    return this.message;
  }
}

function headers() {
  const all = { "content-type": "application/json" };
  if (key) all.authorization = "Bearer " + key;
  return all;
}

async function failure(answer) {
  let inner = {};
  try { inner = (await answer.json()).error || {}; } catch { /* not JSON: only the status is known */ }
  return new ApiError(answer.status, inner.message || `the server answered ${answer.status}`, inner.code,
    answer.headers.get("retry-after"));
}

export async function get(path) {
  const answer = await fetch(path, { headers: headers() });
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

export async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body) });
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

// Yields the JSON of each event. A stream that ends without [DONE] is an error, not a short answer.
export async function* stream(path, body, signal) {
  const answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!answer.ok) throw await failure(answer);
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let text = "", done = false;
  while (true) {
    const piece = await reader.read();
    text += piece.value ? decoder.decode(piece.value, { stream: true }) : "";
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      for (const line of event.split("\n")) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") { done = true; continue; }
        const parsed = JSON.parse(data);
        if (parsed.error) throw new ApiError(answer.status, parsed.error.message || "the stream failed", parsed.error.code);
        yield parsed;
      }
    }
    if (piece.done) break;
  }
  if (!done) throw new ApiError(0, "The connection was lost before the reply was complete.");
}
