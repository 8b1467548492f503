"use strict";
// The browser of item records: unpacks what the page carries, and shows the items that a number was made of.
// Replies are shown as text only (textContent), whatever they contain.
(() => {
  const packed = JSON.parse(document.getElementById("packed-items").textContent);
  const root = document.getElementById("items");
  const form = root.querySelector("form");
  const field = (name) => root.querySelector(`[name=${name}]`);
  const list = root.querySelector(".found");
  const said = root.querySelector(".said");
  const more = root.querySelector(".more");
  const unpacked = new Map();
  const PAGE = 20;
  let shown = 0, found = [], turn = 0;

  async function records(task) {
    if (!unpacked.has(task)) {
      const entry = packed.find((one) => one.task === task);
      if (!entry) return [];
      const bytes = Uint8Array.from(atob(entry.data), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(task, new Response(stream).json());
    }
    return unpacked.get(task);
  }

  function element(name, text, kind) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  const kinds = {
    right: (one) => one.right,
    wrong: (one) => !one.right && !one.failed,
    unparsed: (one) => one.unparsed,
    truncated: (one) => one.truncated,
    failed: (one) => one.failed,
  };

  function card(one) {
    const made = element("div", undefined, "sample");
    const parts = [one.failed ? "no score" : one.right ? "\u2713 right" : "\u2717 not right", one.id];
    if (one.seed !== null) parts.push(`seed ${one.seed}`);
    if (!one.failed) parts.push(`score ${Number(one.score.toFixed(4))}`);
    if (one.extracted !== null) parts.push(`read as: ${one.extracted}`);
    if (one.truncated) parts.push("cut off");
    if (one.unparsed) parts.push("no answer found");
    made.append(element("h3", parts.join(" \u00b7 ")));
    if (one.why) made.append(element("p", one.why, "soft"));
    if (one.logprobs.length) made.append(element("pre", one.logprobs.map((value) => value.toFixed(3)).join("   ")));
    if (one.reply) made.append(element("pre", one.reply));
    return made;
  }

  function grow() {
    for (const one of found.slice(shown, shown + PAGE)) list.append(card(one));
    shown = Math.min(found.length, shown + PAGE);
    more.hidden = shown >= found.length;
  }

  async function search() {
    const mine = ++turn;
    const all = await records(field("task").value);
    if (mine !== turn) return;
    const keep = kinds[field("kind").value] || (() => true);
    const words = field("words").value.toLowerCase();
    found = all.filter((one) => keep(one) && `${one.id} ${one.reply}`.toLowerCase().includes(words));
    said.textContent = `${found.length} of ${all.length} replies`;
    list.replaceChildren();
    shown = 0;
    grow();
  }

  function follow() {
    const [place, query] = location.hash.split("?");
    if (place !== "#items") return;
    const wanted = new URLSearchParams(query || "");
    if (wanted.get("task")) field("task").value = wanted.get("task");
    field("kind").value = wanted.get("kind") || "";
    field("words").value = "";
    root.scrollIntoView();
    search();
  }

  if (typeof DecompressionStream === "undefined") {
    said.textContent = "This browser cannot unpack the replies; the folder samples/ has them.";
    return;
  }
  form.hidden = false;
  form.addEventListener("input", search);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  addEventListener("hashchange", follow);
  search().then(follow);
})();
