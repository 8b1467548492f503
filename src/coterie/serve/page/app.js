import { ApiError, get, post, setKey, stream } from "./api.js";
import { element, markdown } from "./markdown.js";
import { processView, reasoningView, votesView } from "./reasoning.js";
import { difference, heatmap, tokenView } from "./routing.js";
import { Tree, wire } from "./tree.js";

const $ = (id) => document.getElementById(id);
const IDEAS = ["What is a mixture of experts?", "Write a Python function that adds two numbers.", "Once upon a time"];
let tree = new Tree(), mode = "chat", running = null, models = [], sparse = false, editing = null;

function notice(words) {
  $("notice").hidden = !words;
  $("notice").textContent = words || "";
}

function fail(error) {
  if (error.name === "AbortError") return;
  notice(error instanceof ApiError ? error.words : "The server cannot be reached: " + error.message);
}

async function loadModels() {
  try {
    models = (await get("/v1/models")).data;
    for (const pick of [$("model"), $("other")]) {
      const before = pick.value;
      pick.replaceChildren(...models.map((entry) => element("option", { value: entry.id }, entry.parent ? `${entry.id} (adapter)` : entry.id)));
      if (models.some((entry) => entry.id === before)) pick.value = before;
    }
    if (models.length > 1 && $("other").value === $("model").value) $("other").value = models.find((m) => m.id !== $("model").value).id;
    sparse = (await get("/v1/moe/stats")).layers.length > 0;
    $("routing").closest("label").hidden = !sparse;
    $("effort").closest("label").hidden = !models.some((entry) => entry.capabilities && entry.capabilities.reasoning);
    notice("");
  } catch (error) { fail(error); }
}

function settings(model, seedShift = 0) {
  const body = { model, stream: true, stream_options: { include_usage: true }, temperature: Number($("temperature").value),
    top_p: Number($("topP").value), max_tokens: Math.max(1, Number($("maxTokens").value) || 256) };
  if ($("seed").value !== "") body.seed = Number($("seed").value) + seedShift;
  if ($("effort").value && !$("effort").closest("label").hidden) body.reasoning_effort = $("effort").value;
  if ($("steps").checked) body.process = true;
  const votes = mode === "chat" ? Math.min(64, Number($("votes").value) || 1) : 1;
  if (votes > 1) body.votes = votes;
  if (sparse && $("routing").value !== "off") body.moe = { routing: $("routing").value };
  return body;
}

function conversation(nodes) {
  const system = $("system").value.trim();
  return [...(system ? [{ role: "system", content: system }] : []), ...nodes.map(wire)];
}

// Streams one reply into `node`; `changed` is called as it grows.
async function answer(node, messages, model, signal, changed, seedShift = 0) {
  const begun = performance.now();
  let first = null;
  Object.assign(node, { model, waiting: true, content: "", reasoning: "", votes: null, process: null, calls: [], pieces: [], layers: [] });
  try {
    for await (const event of stream("/v1/chat/completions", { ...settings(model, seedShift), messages }, signal)) {
      if (event.usage) node.usage = event.usage;
      const choice = event.choices && event.choices[0];
      if (!choice) continue;
      const delta = choice.delta || {};
      const text = (delta.reasoning_content || "") + (delta.content || "");
      if (text && first === null) first = performance.now();
      if (delta.reasoning_content) { node.reasoning += delta.reasoning_content; node.thought = performance.now() - begun; }
      node.content += delta.content || "";
      for (const part of delta.tool_calls || []) {
        const call = (node.calls[part.index] ||= { id: part.id, type: "function", function: { name: "", arguments: "" } });
        if (part.function && part.function.name) call.function.name = part.function.name;
        if (part.function && part.function.arguments) call.function.arguments += part.function.arguments;
      }
      if (choice.moe && choice.moe.tokens.length) {
        node.layers = choice.moe.layers;
        choice.moe.tokens.forEach((token, i) => node.pieces.push({ text: i ? "" : text, experts: token.experts, weights: token.weights }));
      }
      if (choice.votes) node.votes = choice.votes;
      if (choice.process) node.process = choice.process;
      if (choice.finish_reason) node.finish = choice.finish_reason;
      changed();
    }
  } finally {
    node.waiting = false;
    const count = node.usage ? node.usage.completion_tokens : 0, seconds = (performance.now() - (first || begun)) / 1000;
    node.speed = count > 1 && seconds > 0 ? (count - 1) / seconds : null;
    changed();
  }
}

function began() {
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  notice("");
  return running.signal;
}

function ended() {
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  draw();
  $("input").focus();
}

async function reply(parent) {
  const node = tree.add(parent, { role: "assistant" });
  const signal = began();
  draw();
  try {
    await answer(node, conversation(tree.before(node)), $("model").value, signal, () => refresh(node));
    $("live").textContent = node.content || "The reply is complete.";
  } catch (error) {
    node.stopped = error.name === "AbortError" ? "stopped" : "interrupted";
    fail(error);
  }
  ended();
}

async function compare(parent) {
  const picks = [$("model").value, $("other").value];
  const swap = Math.random() < 0.5;
  const node = tree.add(parent, { role: "assistant", pair: [{}, {}], blind: true });
  const names = swap ? [picks[1], picks[0]] : picks;
  const signal = began(), messages = conversation(tree.before(node));
  draw();
  const runs = names.map((model, i) => answer(node.pair[i], messages, model, signal, () => refresh(node), i));
  for (const run of await Promise.allSettled(runs)) if (run.status === "rejected") { node.stopped = "interrupted"; fail(run.reason); }
  ended();
}

function go(parent) { return mode === "compare" ? compare(parent) : reply(parent); }

function about(node) {
  const parts = [];
  if (node.model && !node.hideName) parts.push(node.model);
  if (node.usage) parts.push(`${node.usage.completion_tokens} tokens`);
  if (node.speed && !node.votes) parts.push(`${node.speed.toFixed(1)} tokens/s`);
  if (node.usage && node.usage.prompt_tokens_details && node.usage.prompt_tokens_details.cached_tokens) parts.push(`${node.usage.prompt_tokens_details.cached_tokens} prompt tokens cached`);
  if (node.finish === "length") parts.push("stopped at the length limit");
  if (node.stopped) parts.push(node.stopped);
  return parts.join(" · ");
}

function said(node) {
  const whole = document.createDocumentFragment();
  const views = (...found) => whole.append(...found.filter(Boolean));
  views(reasoningView(node));
  const text = element("div", { class: "said" });
  if (node.showExperts && node.pieces.length) {
    text.append(tokenView(node.pieces, node.layers), heatmap(node.pieces, node.layers));
  } else text.append(markdown(node.content || ""));
  if (node.waiting) text.append(element("span", { class: "wait", "aria-label": "writing" }));
  whole.append(text);
  for (const call of node.calls || []) {
    if (call) whole.append(element("div", { class: "call" }, "Calls ", element("strong", {}, call.function.name), element("pre", {}, element("code", {}, call.function.arguments))));
  }
  views(votesView(node), processView(node));
  return whole;
}

function calm(name, action, extra = {}) { return element("button", { type: "button", onclick: action, ...extra }, name); }

function branches(node) {
  const { at, of } = tree.siblings(node);
  if (of < 2) return [];
  const step = (by) => () => { tree.turn(node, by); draw(); };
  return [calm("‹", step(-1), { "aria-label": "Previous version" }), element("span", { class: "quiet" }, `${at + 1}/${of}`), calm("›", step(1), { "aria-label": "Next version" })];
}

async function judge(body) {
  try { await post("/v1/feedback", body); return true; } catch (error) { fail(error); return false; }
}

function about_run(node) { return { model: node.model, temperature: Number($("temperature").value), top_p: Number($("topP").value), seed: $("seed").value || null }; }

function thumb(node, label) {
  return calm(label ? "Good" : "Bad", async () => {
    const body = { kind: "label", messages: conversation(tree.before(node)), message: wire(node), label, about: about_run(node) };
    if (await judge(body)) { node.label = label; draw(); }
  }, { "aria-label": label ? "Good reply" : "Bad reply", "aria-pressed": String(node.label === label) });
}

function drawUser(node) {
  if (editing === node.id) {
    const field = element("textarea", { class: "edit", rows: "3", "aria-label": "Edit message" });
    field.value = node.content;
    const done = () => { editing = null; const made = tree.add(node.parent, { role: "user", content: field.value }); draw(); go(made.id); };
    setTimeout(() => field.focus());
    return [field, element("div", { class: "calm" }, calm("Send", done), calm("Cancel", () => { editing = null; draw(); }))];
  }
  return [element("div", { class: "said" }, node.content),
    element("div", { class: "calm" }, ...branches(node), calm("Edit", () => { editing = node.id; draw(); }, { disabled: Boolean(running) }))];
}

function drawReply(node) {
  const buttons = [...branches(node)];
  if (!node.waiting) {
    buttons.push(calm("Regenerate", () => go(node.parent), { disabled: Boolean(running) }), calm("Copy", () => navigator.clipboard.writeText(node.content)), thumb(node, true), thumb(node, false));
    if (node.pieces && node.pieces.length) buttons.push(calm("Experts", () => { node.showExperts = !node.showExperts; draw(); }, { "aria-pressed": String(Boolean(node.showExperts)) }));
  }
  return [element("div", { class: "who" }, about(node)), said(node), element("div", { class: "calm" }, ...buttons)];
}

function drawPair(node) {
  const [a, b] = node.pair, ready = !a.waiting && !b.waiting && (a.content !== undefined);
  const same = Math.max(0, [...(a.content || "")].findIndex((letter, i) => letter !== (b.content || "")[i]));
  const column = (side, name) => {
    side.hideName = node.blind;
    const words = element("div", {}, said(side));
    if (!node.blind && side.content && side.content.length > same && a.content !== b.content && !side.showExperts) {
      words.append(element("p", { class: "quiet" }, "differs from here: ", element("span", { class: "differs" }, side.content.slice(same, same + 60))));
    }
    return element("section", { class: "side", "aria-label": `Reply ${name}` }, element("div", { class: "who" }, element("strong", {}, name), " ", about(side)), words);
  };
  const choose = (winner) => async () => {
    const body = { kind: winner === null || winner === "bad" ? "undecided" : "preference", messages: conversation(tree.before(node)), about: { a: about_run(a), b: about_run(b), verdict: winner === "bad" ? "both bad" : winner === null ? "equal" : winner === a ? "a" : "b" } };
    if (body.kind === "preference") Object.assign(body, { chosen: wire({ role: "assistant", ...winner }), rejected: wire({ role: "assistant", ...(winner === a ? b : a) }) });
    else body.replies = [a, b].map((side) => wire({ role: "assistant", ...side }));
    if (!(await judge(body))) return;
    node.blind = false;
    Object.assign(node, winner && winner !== "bad" ? { content: winner.content, reasoning: winner.reasoning, calls: winner.calls } : { content: a.content });
    draw();
  };
  const verdict = node.blind && ready
    ? [calm("A is better", choose(a)), calm("B is better", choose(b)), calm("Equal", choose(null)), calm("Both bad", choose("bad"))]
    : [...branches(node), ...(ready ? [calm("Regenerate", () => go(node.parent), { disabled: Boolean(running) })] : [])];
  const parts = [element("div", { class: "pair" }, column(a, "A"), column(b, "B")), element("div", { class: "calm" }, ...verdict)];
  if (!node.blind && a.pieces && a.pieces.length && b.pieces && b.pieces.length && String(a.layers) === String(b.layers)) parts.push(difference(a.pieces, b.pieces, a.layers));
  return parts;
}

function drawTurn(node) {
  const parts = node.role === "user" ? drawUser(node) : node.pair ? drawPair(node) : drawReply(node);
  return element("li", { class: `turn ${node.role}${node.pair ? " wide" : ""}`, id: `turn-${node.id}` }, ...(node.role === "user" ? [element("div", { class: "who" }, "You")] : []), ...parts);
}

let due = null;
function refresh(node) {
  if (due) return;
  due = requestAnimationFrame(() => {
    due = null;
    const old = $(`turn-${node.id}`);
    if (!old) return;
    const talk = $("talk"), near = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 80;
    old.replaceWith(drawTurn(node));
    if (near) talk.scrollTop = talk.scrollHeight;
  });
}

function draw() {
  const path = tree.path();
  $("empty").hidden = path.length > 0;
  $("talk").replaceChildren(...path.map(drawTurn));
  $("talk").scrollTop = $("talk").scrollHeight;
  const open = path.length && path[path.length - 1].blind;
  $("send").disabled = Boolean(open);
  $("send").title = open ? "First choose the better reply" : "";
}

function submit(event) {
  event.preventDefault();
  const text = $("input").value.trim();
  if (!text || running || $("send").disabled) return;
  $("input").value = "";
  grow();
  const node = tree.add(tree.last, { role: "user", content: text });
  draw();
  go(node.id);
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${Math.min($("input").scrollHeight + 2, innerHeight * 0.4)}px`;
}

function setMode(next) {
  mode = next;
  $("modeChat").setAttribute("aria-pressed", String(next === "chat"));
  $("modeCompare").setAttribute("aria-pressed", String(next === "compare"));
  $("otherPick").hidden = next !== "compare";
}

function saveConversation() {
  const data = { model: $("model").value, messages: conversation(tree.path()) };
  const link = element("a", { href: URL.createObjectURL(new Blob([JSON.stringify(data) + "\n"], { type: "application/json" })), download: "conversation.json" });
  link.click();
  URL.revokeObjectURL(link.href);
}

$("composer").addEventListener("submit", submit);
$("stop").addEventListener("click", () => running && running.abort());
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.abort(); else if (!$("side").hidden) showSide(false);
});
$("modeChat").addEventListener("click", () => setMode("chat"));
$("modeCompare").addEventListener("click", () => setMode("compare"));
$("fresh").addEventListener("click", () => { if (running) running.abort(); tree = new Tree(); notice(""); draw(); $("input").focus(); });
function showSide(open) {
  $("side").hidden = !open;
  $("showSide").setAttribute("aria-expanded", String(open));
  (open ? $("system") : $("showSide")).focus();
}
$("showSide").addEventListener("click", () => showSide($("side").hidden));
$("hideSide").addEventListener("click", () => showSide(false));
$("save").addEventListener("click", saveConversation);
$("key").addEventListener("change", () => { setKey($("key").value); loadModels(); });
for (const name of ["temperature", "topP"]) $(name).addEventListener("input", () => { $(name + "Shown").textContent = $(name).value; });
$("ideas").append(...IDEAS.map((idea) => element("button", { type: "button", onclick: () => { $("input").value = idea; grow(); $("input").focus(); } }, idea)));
loadModels();
draw();
$("input").focus();
