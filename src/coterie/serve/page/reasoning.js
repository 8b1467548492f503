// What is known of how a reply came about: its reasoning, the votes of several replies, its steps.
import { element } from "./markdown.js";

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// The reader's own choice of open or closed outlives the redrawing of a growing reply.
function fold(node, name, open, title, ...inside) {
  const shut = (node.folds ||= {});
  const made = element("details", { open: shut[name] ?? open }, element("summary", {}, title), ...inside);
  made.firstChild.addEventListener("click", () => { shut[name] = !made.open; });
  return made;
}

export function reasoningView(node) {
  if (!node.reasoning) return null;
  const details = node.usage && node.usage.completion_tokens_details;
  const count = !node.votes && details ? details.reasoning_tokens : null;
  const parts = ["Reasoning"];
  if (node.waiting && !node.content) parts.push("…");
  if (count) parts.push(`, ${plural(count, "token")}`);
  if (node.thought && !node.votes) parts.push(`, ${(node.thought / 1000).toFixed(1)} s`);
  return fold(node, "reasoning", Boolean(node.waiting && !node.content), parts.join(""), element("div", { class: "thought" }, node.reasoning));
}

export function votesView(node) {
  const votes = node.votes;
  if (!votes) return null;
  if (!votes.table) return element("p", { class: "quiet" }, `${votes.done} of ${votes.of} replies are complete`);
  const row = (answer, count, share, example) => element("tr", { title: example },
    element("td", { class: "count" }, String(count)),
    element("td", { class: "bar" }, element("progress", { max: "1", value: String(share), "aria-label": `${Math.round(100 * share)} %` })),
    element("td", {}, answer));
  const rows = votes.table.map((one) => row(one.answer, one.count, one.share, one.example));
  if (votes.unanswered) rows.push(row(element("span", { class: "quiet" }, "no answer"), votes.unanswered, votes.unanswered / votes.of));
  const head = element("tr", {}, element("th", { scope: "col", class: "count" }, "Votes"), element("th", { scope: "col" }, "Share"), element("th", { scope: "col" }, "Answer"));
  return element("div", { class: "votes" }, element("p", { class: "quiet" }, votes.says), element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

export function processView(node) {
  if (!node.process) return null;
  const { steps, checks } = node.process;
  const sums = checks.right + checks.wrong;
  const title = `Steps, ${steps.length}` + (sums ? `; ${plural(sums, "sum")} checked, ${checks.wrong ? `${checks.wrong} wrong` : "all right"}` : "");
  const items = steps.map((step) => element("li", { class: step.part },
    element("div", { class: "step" }, step.text || "(no words)"),
    element("div", { class: "quiet" }, `${step.part}, ${plural(step.tokens, "token")}, mean log-probability ${step.mean_logprob.toFixed(2)}`),
    ...step.checks.map((check) => element("div", { class: check.right ? "right" : "wrong" },
      check.right ? `✓ ${check.text}` : `✗ ${check.text} (the left side is ${check.value})`))));
  return fold(node, "process", false, title, element("ol", { class: "steps" }, ...items));
}
