// Reads the nodes of an ONNX file, and adds outputs to it: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. So the
// lecture sees what lies between input and output without another download.

const MODEL = { graph: 7 };
const GRAPH = { node: 1, input: 11, output: 12 };
const NODE = { input: 1, output: 2, op_type: 4 };
const VALUE = { name: 1 };
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5]; // how protocol buffers encode a value

// { field, content, whole } of each field of a message: its number, its bytes if it is made of bytes, and all of it.
function* fields(message) {
  let offset = 0;
  const varint = () => {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = message[offset++];
      value += (byte & 127) * factor;
      factor *= 128;
      if (byte < 128) return value;
    }
  };
  while (offset < message.length) {
    const start = offset;
    const tag = varint();
    const kind = tag & 7;
    let content;
    if (kind === BYTES) {
      const length = varint();
      content = message.subarray(offset, (offset += length));
    } else if (kind === VARINT) varint();
    else offset += { [FIXED64]: 8, [FIXED32]: 4 }[kind];
    yield { field: tag >> 3, content, whole: message.subarray(start, offset) };
  }
}

const decoder = new TextDecoder();
const named = (message, field) => [...fields(message)].filter((each) => each.field === field);
const strings = (message, field) => named(message, field).map(({ content }) => decoder.decode(content));

// { nodes, inputs, outputs } of a model, a Uint8Array; a node is { op, inputs, outputs }, the names of tensors.
export function readGraph(model) {
  const [{ content: graph }] = named(model, MODEL.graph);
  const names = (field) => named(graph, field).map(({ content }) => strings(content, VALUE.name)[0]);
  const nodes = named(graph, GRAPH.node).map(({ content }) => ({
    op: strings(content, NODE.op_type)[0],
    inputs: strings(content, NODE.input),
    outputs: strings(content, NODE.output),
  }));
  return { nodes: sort(nodes), inputs: names(GRAPH.input), outputs: names(GRAPH.output) };
}

// Each node after those whose outputs it reads, which quantization does not keep to.
function sort(nodes) {
  const makers = new Map(nodes.flatMap((node) => node.outputs.map((name) => [name, node])));
  const sorted = new Set();
  const visit = (node) => {
    if (!node || sorted.has(node)) return;
    node.inputs.forEach((name) => visit(makers.get(name)));
    sorted.add(node);
  };
  nodes.forEach(visit);
  return [...sorted];
}

// The model with further tensors as outputs, a Uint8Array.
export async function addOutputs(model, names) {
  const parts = [];
  for (const { field, content, whole } of fields(model)) {
    if (field !== MODEL.graph) parts.push(whole);
    else {
      const outputs = names.map((name) => message(GRAPH.output, [message(VALUE.name, [new TextEncoder().encode(name)])]));
      parts.push(message(MODEL.graph, [content, ...outputs]));
    }
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function message(field, parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const bytes = new Uint8Array([...varintBytes((field << 3) | BYTES), ...varintBytes(length)]);
  const whole = new Uint8Array(bytes.length + length);
  whole.set(bytes);
  let offset = bytes.length;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

function varintBytes(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}

// The tensors on which alone everything after them depends, such as the outputs of an encoder's blocks; not those that
// are quantized next.
export function findTrunk({ nodes, inputs, outputs }) {
  const lastUse = new Map(outputs.map((name) => [name, Infinity]));
  nodes.forEach((node, i) => node.inputs.forEach((name) => lastUse.set(name, Math.max(i, lastUse.get(name) ?? 0))));
  const quantized = new Set(nodes.filter(({ op }) => op === "QuantizeLinear").flatMap((node) => node.inputs));
  const reached = new Set(inputs);
  const live = new Set(inputs);
  const trunk = [];
  nodes.forEach((node, i) => {
    if (!node.inputs.some((name) => reached.has(name))) return; // prepares weights
    for (const name of node.inputs) if (lastUse.get(name) === i) live.delete(name);
    for (const name of node.outputs) {
      reached.add(name);
      if (lastUse.has(name)) live.add(name);
    }
    const [name] = node.outputs;
    if (live.size === 1 && live.has(name) && node.op !== "QuantizeLinear" && !quantized.has(name)) trunk.push(name);
  });
  return trunk;
}

// The tensor that attention gives to the second RNN: it is joined to another one that does not depend on it. None if there
// is no such tensor.
export function findContext({ nodes }) {
  const reached = new Set();
  for (const { op, inputs, outputs } of nodes) {
    const seen = inputs.filter((name) => reached.has(name));
    if (op === "Concat" && inputs.length === 2 && seen.length === 1) return seen[0];
    if (op === "Softmax" || seen.length) outputs.forEach((name) => reached.add(name));
  }
  return null;
}
