// Views of routing: tokens coloured by expert, a heatmap of layers by experts, the difference of two replies.
import { element } from "./markdown.js";

export function hue(expert) { return (expert * 137.508) % 360; }

function paint(span, expert) {
  const light = getComputedStyle(document.documentElement).getPropertyValue("--token-light").trim() || "88%";
  span.style.backgroundColor = `hsl(${hue(expert)} 70% ${light})`;
}

function words(piece, layers) {
  return layers.map((layer, row) => {
    const experts = (piece.experts[row] || []).map((expert, i) => `${expert} (${Math.round(100 * piece.weights[row][i])}%)`);
    return `layer ${layer}: ${experts.join(", ")}`;
  }).join(" · ");
}

// pieces: [{text, experts: [layer][k], weights: [layer][k]}]
export function tokenView(pieces, layers) {
  const pick = element("select", { "aria-label": "Layer to colour by" },
    ...layers.map((layer, row) => element("option", { value: row }, `layer ${layer}`)));
  const about = element("div", { class: "about", "aria-live": "polite" }, "Point at a token to see its experts.");
  const line = element("div", { class: "tokens" });
  const spans = pieces.map((piece) => {
    const show = () => { about.textContent = `“${piece.text.trim() || "␣"}” ${words(piece, layers)}`; };
    const span = element("span", { class: "token", tabindex: "0", onmouseenter: show, onfocus: show }, piece.text);
    line.append(span);
    return span;
  });
  const colour = () => pieces.forEach((piece, i) => {
    const best = (piece.experts[Number(pick.value)] || [])[0];
    if (best !== undefined) paint(spans[i], best);
  });
  pick.addEventListener("change", colour);
  colour();
  return element("div", {}, element("label", { class: "quiet" }, "Coloured by the best expert of ", pick), line, about);
}

export function shares(pieces, layers) {
  const most = Math.max(0, ...pieces.flatMap((piece) => piece.experts.flat())) + 1;
  const table = layers.map(() => new Array(most).fill(0));
  for (const piece of pieces) piece.experts.forEach((experts, row) => experts.forEach((expert) => { table[row][expert] += 1; }));
  return table.map((row) => row.map((count) => count / Math.max(1, pieces.length)));
}

function summary(table, layers) {
  return layers.map((layer, row) => {
    const order = table[row].map((share, expert) => [share, expert]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    return `layer ${layer}: ` + order.map(([share, expert]) => `expert ${expert} ${Math.round(100 * share)}%`).join(", ");
  }).join("; ");
}

function draw(table, layers, colourOf, caption, label) {
  const width = Math.max(...table.map((row) => row.length)), cell = Math.max(6, Math.min(22, Math.floor(640 / width)));
  const canvas = element("canvas", { role: "img", "aria-label": label, width: width * cell, height: layers.length * cell });
  const pen = canvas.getContext("2d");
  table.forEach((row, y) => row.forEach((value, x) => {
    pen.fillStyle = colourOf(value, x);
    pen.fillRect(x * cell, y * cell, cell - 1, cell - 1);
  }));
  return element("figure", {}, canvas, element("figcaption", {}, caption));
}

export function heatmap(pieces, layers) {
  const table = shares(pieces, layers), top = Math.max(0.01, ...table.flat());
  const colour = (value, expert) => `hsl(${hue(expert)} 70% 50% / ${0.08 + 0.92 * value / top})`;
  return draw(table, layers, colour, "Share of tokens per expert: one row per layer, one column per expert.", summary(table, layers));
}

export function difference(a, b, layers) {
  const width = (table) => Math.max(...table.map((row) => row.length));
  const first = shares(a, layers), second = shares(b, layers), most = Math.max(width(first), width(second));
  const table = layers.map((_, row) => Array.from({ length: most }, (_, i) => (second[row][i] || 0) - (first[row][i] || 0)));
  const top = Math.max(0.01, ...table.flat().map(Math.abs));
  const colour = (value) => `hsl(${value < 0 ? 22 : 215} 85% 52% / ${0.06 + 0.94 * Math.abs(value) / top})`;
  const changed = table.flat().filter((value) => Math.abs(value) > 0.1).length;
  return draw(table, layers, colour, "Difference in use: orange experts are used more in A, blue ones more in B.",
    `${changed} experts differ by more than 10% of the tokens`);
}
