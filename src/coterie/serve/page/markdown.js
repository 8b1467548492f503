// A small Markdown renderer. Text only ever enters the page as text nodes; links go to http and https alone.
const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\*[^*\s][^*\n]*\*)|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/g;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function inline(text, into) {
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    into.append(text.slice(at, match.index));
    at = match.index + match[0].length;
    if (match[1]) into.append(element("code", {}, match[1].slice(1, -1)));
    else if (match[2]) into.append(element("strong", {}, match[2].slice(2, -2)));
    else if (match[3]) into.append(element("em", {}, match[3].slice(1, -1)));
    else into.append(element("a", { href: match[5], rel: "noopener noreferrer", target: "_blank" }, match[4]));
  }
  into.append(text.slice(at));
  return into;
}

export function markdown(text) {
  const whole = document.createDocumentFragment();
  const lines = text.split("\n");
  let paragraph = [], list = null;
  const flush = () => {
    if (paragraph.length) {
      const made = element("p");
      paragraph.forEach((line, index) => { if (index) made.append(element("br")); inline(line, made); });
      whole.append(made);
    }
    paragraph = [];
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const fence = line.match(/^\s*```/);
    const item = line.match(/^\s*(?:([-*+])|\d+[.)])\s+(.*)$/);
    const head = line.match(/^#{1,6}\s+(.*)$/);
    if (fence) {
      flush(); list = null;
      const code = [];
      while (++i < lines.length && !/^\s*```/.test(lines[i])) code.push(lines[i]);
      whole.append(element("pre", { tabindex: "0" }, element("code", {}, code.join("\n"))));
    } else if (item) {
      flush();
      const kind = item[1] ? "UL" : "OL";
      if (!list || list.tagName !== kind) { list = element(kind); whole.append(list); }
      list.append(inline(item[2], element("li")));
    } else if (head) {
      flush(); list = null;
      whole.append(inline(head[1], element("h3")));
    } else if (!line.trim()) { flush(); list = null; } else { list = null; paragraph.push(line); }
  }
  flush();
  return whole;
}
