"use strict";
// The browser of kept replies: unpacks the steps that the page carries, filters them, and shows them by problem.
// Replies are shown as text only (textContent), whatever they contain.
(() => {
  const packed = JSON.parse(document.getElementById("packed-rollouts").textContent);
  const root = document.getElementById("rollouts");
  const field = (name) => root.querySelector(`[name=${name}]`);
  const list = root.querySelector(".found");
  const said = root.querySelector(".said");
  const more = root.querySelector(".more");
  const unpacked = new Map();
  const PAGE = 12;
  let shown = 0, found = [], turn = 0;

  async function unpack(at) {
    if (!unpacked.has(at)) {
      const bytes = Uint8Array.from(atob(packed[at].data), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(at, new Response(stream).json());
    }
    return unpacked.get(at);
  }

  function element(name, text, kind) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  const number = (value) => Number(value.toFixed(4)).toString().replace("-", "\u2212");
  const signed = (value) => (value > 0 ? "+" : "") + number(value);

  function headline(reply) {
    const parts = Object.entries(reply.parts);
    const said = [
      reply.right ? "\u2713 right" : "\u2717 wrong",
      `reward ${number(reply.reward)}`,
      reply.advantage === undefined ? "" : `advantage ${signed(reply.advantage)}`,
      parts.length > 1 ? parts.map(([name, value]) => `${name} ${number(value)}`).join(", ") : "",
      `${reply.tokens} tokens`,
      reply.truncated ? "cut off" : "",
      reply.learnt ? "" : "not learnt from",
    ];
    return said.filter(Boolean).join(" \u00b7 ");
  }

  const KNOWN = new Set(["reasoning", "content", "reward", "parts", "why", "truncated", "learnt", "right",
    "advantage", "tokens", "mean_logprob", "turns"]);

  function replyElement(reply) {
    const box = element("details", undefined, "reply");
    const summary = element("summary", headline(reply));
    const start = reply.content.trim().replace(/\s+/g, " ") || reply.reasoning.trim().replace(/\s+/g, " ");
    summary.append(element("span", start.length > 90 ? start.slice(0, 90) + "\u2026" : start, "start"));
    box.append(summary);
    box.addEventListener("toggle", () => {
      if (!box.open || box.childElementCount > 1) return;
      for (const one of reply.turns || []) turnElements(one).forEach((made) => box.append(made));
      if (reply.reasoning) {
        box.append(element("b", "reasoning"), element("pre", reply.reasoning, "reasoning"));
      }
      box.append(element("b", "reply"), element("pre", reply.content));
      if (reply.why) box.append(element("p", `checker: ${reply.why}`, "soft"));
      if (reply.mean_logprob !== undefined) {
        box.append(element("p", `mean log-probability of its tokens: ${number(reply.mean_logprob)} nats`, "soft"));
      }
      for (const [name, value] of Object.entries(reply)) {
        if (!KNOWN.has(name)) box.append(element("p", `${name}: ${JSON.stringify(value)}`, "soft"));
      }
    });
    return box;
  }

  function turnElements(turn) {
    const calls = (turn.tool_calls || []).map((call) => JSON.stringify(call)).join("\n");
    const text = [turn.reasoning_content, turn.content, calls].filter(Boolean).join("\n");
    return [element("b", turn.role || "turn"), element("pre", text || JSON.stringify(turn))];
  }

  function problemElement({step, problem, replies}) {
    const box = element("article", undefined, "sample");
    const right = problem.replies.filter((reply) => reply.right).length;
    box.append(element("h3", `step ${step} \u00b7 ${problem.problem} \u00b7 level ${problem.level} \u00b7 `
      + `${right} of ${problem.replies.length} right`));
    box.append(element("pre", problem.prompt, "prompt"));
    if (problem.answer) box.append(element("p", `answer: ${problem.answer}`, "soft"));
    replies.forEach((reply) => box.append(replyElement(reply)));
    return box;
  }

  function wanted(reply, problem, choice, words) {
    const kinds = {right: reply.right, wrong: !reply.right, "cut off": reply.truncated};
    if (choice !== "all" && !kinds[choice]) return false;
    if (!words) return true;
    const turns = reply.turns ? JSON.stringify(reply.turns) : "";
    return [problem.problem, problem.prompt, problem.answer, reply.reasoning, reply.content, reply.why, turns]
      .some((text) => (text || "").toLowerCase().includes(words));
  }

  async function search() {
    const mine = ++turn;
    const step = field("step").value, level = field("level").value, choice = field("verdict").value;
    const words = field("words").value.trim().toLowerCase();
    const places = step === "all" ? packed.map((_, at) => at) : [Number(step)];
    found = [];
    let count = 0;
    for (const at of places) {
      if (places.length > 1) said.textContent = `reading step ${packed[at].step}\u2026`;
      const problems = await unpack(at);
      if (mine !== turn) return;
      for (const problem of problems) {
        if (level !== "all" && String(problem.level) !== level) continue;
        const replies = problem.replies.filter((reply) => wanted(reply, problem, choice, words));
        count += replies.length;
        if (replies.length) found.push({step: packed[at].step, problem, replies});
      }
    }
    shown = 0;
    list.replaceChildren();
    said.textContent = `${count.toLocaleString("en")} replies to ${found.length.toLocaleString("en")} problems`;
    next();
  }

  function next() {
    found.slice(shown, shown + PAGE).forEach((one) => list.append(problemElement(one)));
    shown = Math.min(shown + PAGE, found.length);
    more.hidden = shown >= found.length;
    more.textContent = `show more (${found.length - shown} problems left)`;
  }

  let waiting = 0;
  function soon() {
    clearTimeout(waiting);
    waiting = setTimeout(() => search().catch((error) => { said.textContent = `cannot be read: ${error}`; }), 120);
  }

  if (!("DecompressionStream" in window)) {
    root.querySelector(".absent").textContent =
      "This browser is too old to unpack the replies (it lacks DecompressionStream); they are in rollouts/ too.";
    return;
  }
  root.querySelector(".absent").remove();
  root.querySelector("form").hidden = false;
  root.querySelector("form").addEventListener("input", soon);
  root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", next);
  soon();
})();
