// A conversation as a tree: editing or regenerating adds a sibling, so no message is lost.
export class Tree {
  constructor() { this.nodes = [{ id: 0, parent: null, children: [], active: -1 }]; }
  add(parent, message) {
    const node = { id: this.nodes.length, parent, children: [], active: -1, ...message };
    this.nodes.push(node);
    this.nodes[parent].active = this.nodes[parent].children.push(node.id) - 1;
    return node;
  }
  path() {
    const found = [];
    let node = this.nodes[0];
    while (node.active >= 0) { node = this.nodes[node.children[node.active]]; found.push(node); }
    return found;
  }
  get last() { const path = this.path(); return path.length ? path[path.length - 1].id : 0; }
  siblings(node) { const parent = this.nodes[node.parent]; return { at: parent.children.indexOf(node.id), of: parent.children.length }; }
  turn(node, step) {
    const parent = this.nodes[node.parent];
    parent.active = (parent.children.indexOf(node.id) + step + parent.children.length) % parent.children.length;
  }
  before(node) {
    const found = [];
    for (let at = node.parent; at; at = this.nodes[at].parent) found.unshift(this.nodes[at]);
    return found;
  }
}

export function wire(node) {
  const message = { role: node.role, content: node.content || "" };
  if (node.reasoning) message.reasoning_content = node.reasoning;
  if (node.calls && node.calls.length) message.tool_calls = node.calls;
  return message;
}
