// Boxes drawn on a canvas, and the same boxes in a table. props.value: {boxes: [{phrase, box}], phrases, aspect}.
const root = element.querySelector(".layout-editor");
const make = (tag, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};
const STEP = 0.02;
const SMALLEST = 0.02;
const clamp = (v, low = 0, high = 1) => Math.min(high, Math.max(low, v));
const round = (v) => Math.round(v * 100) / 100;
const tidy = ([x0, y0, x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map((v) => round(clamp(v)));

const canvas = make("div", { className: "canvas", tabIndex: 0 });
canvas.setAttribute("role", "group");
canvas.setAttribute("aria-label", "Layout: drag to draw a box, Enter adds one");
const table = make("div", { className: "table" });
const hint = make("p", { className: "hint" });
root.append(canvas, table, hint);

function store(boxes) {
  props.value = { ...props.value, boxes };
}

function change(boxes, focus = null) {
  store(boxes);
  build();
  if (focus !== null) canvas.querySelectorAll(".box")[focus]?.focus();
  trigger("change");
}

const replaced = (index, box) => props.value.boxes.map((item, i) => (i === index ? { ...item, box } : item));

function nextPhrase() {
  const used = props.value.boxes.map((item) => item.phrase);
  return props.value.phrases.find((phrase) => !used.includes(phrase)) ?? props.value.phrases[0] ?? "";
}

// A typed side, kept on its side of the opposite one.
const inOrder = (box, at, v) => (at < 2 ? clamp(v, 0, box[at + 2] - SMALLEST) : clamp(v, box[at - 2] + SMALLEST));

function moved([x0, y0, x1, y1], dx, dy) {
  dx = clamp(dx, -x0, 1 - x1);
  dy = clamp(dy, -y0, 1 - y1);
  return [x0 + dx, y0 + dy, x1 + dx, y1 + dy];
}

// One gesture: from pointerdown to pointerup, whatever began it.
function gesture(event, shape, done) {
  event.preventDefault();
  event.stopPropagation();
  const frame = canvas.getBoundingClientRect();
  const at = (e) => [(e.clientX - frame.left) / frame.width, (e.clientY - frame.top) / frame.height];
  const start = at(event);
  canvas.setPointerCapture(event.pointerId);
  const move = (e) => shape(start, at(e));
  const end = (e) => {
    canvas.removeEventListener("pointermove", move);
    canvas.removeEventListener("pointerup", end);
    canvas.removeEventListener("pointercancel", end);
    if (e.type === "pointerup") done(start, at(e));
    else build();
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
}

function position(node, [x0, y0, x1, y1]) {
  Object.assign(node.style, { left: `${x0 * 100}%`, top: `${y0 * 100}%`, width: `${(x1 - x0) * 100}%`, height: `${(y1 - y0) * 100}%` });
}

canvas.onpointerdown = (event) => {
  if (event.button) return;
  const ghost = make("div", { className: "box ghost" });
  canvas.append(ghost);
  const box = ([ax, ay], [bx, by]) => tidy([ax, ay, bx, by]);
  gesture(event, (a, b) => position(ghost, box(a, b)), (a, b) => {
    const drawn = box(a, b);
    const large = drawn[2] - drawn[0] >= SMALLEST && drawn[3] - drawn[1] >= SMALLEST;
    if (large) change([...props.value.boxes, { phrase: nextPhrase(), box: drawn }], props.value.boxes.length);
    else build();
  });
};
canvas.onkeydown = (event) => {
  if (event.target !== canvas || event.key !== "Enter") return;
  event.preventDefault();
  change([...props.value.boxes, { phrase: nextPhrase(), box: [0.25, 0.25, 0.75, 0.75] }], props.value.boxes.length);
};

function boxNode(item, index) {
  const node = make("div", { className: "box", tabIndex: 0 });
  node.dataset.colour = index % 6;
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", `Box ${index + 1}, ${item.phrase || "without a name"}: arrows move, Shift and arrows resize, Delete removes`);
  position(node, item.box);
  node.append(make("span", { className: "name", textContent: item.phrase || "name?" }));
  node.onpointerdown = (event) => {
    if (event.button) return;
    node.focus();
    const box = ([ax, ay], [bx, by]) => moved(item.box, bx - ax, by - ay);
    gesture(event, (a, b) => position(node, box(a, b)), (a, b) => change(replaced(index, tidy(box(a, b))), index));
  };
  for (const [corner, xs, ys] of [["nw", 0, 1], ["ne", 2, 1], ["sw", 0, 3], ["se", 2, 3]]) {
    const handle = make("span", { className: `handle ${corner}` });
    handle.onpointerdown = (event) => {
      const box = ([ax, ay], [bx, by]) => tidy(item.box.with(xs, clamp(item.box[xs] + bx - ax)).with(ys, clamp(item.box[ys] + by - ay)));
      gesture(event, (a, b) => position(node, box(a, b)), (a, b) => {
        const sized = box(a, b);
        if (sized[0] < sized[2] && sized[1] < sized[3]) change(replaced(index, sized), index);
        else build();
      });
    };
    node.append(handle);
  }
  node.onkeydown = (event) => {
    const arrow = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") change(props.value.boxes.filter((_, i) => i !== index));
    else if (arrow && event.shiftKey) {
      const [x0, y0, x1, y1] = item.box;
      change(replaced(index, [x0, y0, round(clamp(x1 + arrow[0], x0 + SMALLEST)), round(clamp(y1 + arrow[1], y0 + SMALLEST))]), index);
    } else if (arrow) change(replaced(index, tidy(moved(item.box, ...arrow))), index);
    else return;
    event.preventDefault();
  };
  return node;
}

function rowNode(item, index) {
  const row = make("div", { className: "row" });
  row.dataset.colour = index % 6;
  const name = make("input", { type: "text", value: item.phrase, placeholder: "words of the prompt" });
  name.setAttribute("list", "layout-phrases");
  name.setAttribute("aria-label", `Words of the prompt for box ${index + 1}`);
  name.onchange = () => change(props.value.boxes.map((other, i) => (i === index ? { ...other, phrase: name.value } : other)));
  const numbers = ["left", "top", "right", "bottom"].map((side, at) => {
    const box = make("input", { type: "number", min: 0, max: 1, step: 0.01, value: Number(item.box[at].toFixed(3)) });
    box.setAttribute("aria-label", `Box ${index + 1}, ${side}, from 0 to 1`);
    box.title = side;
    box.onchange = () => change(replaced(index, item.box.with(at, inOrder(item.box, at, Number(box.value)))));
    return box;
  });
  const remove = make("button", { type: "button", textContent: "✕", title: "Remove" });
  remove.setAttribute("aria-label", `Remove box ${index + 1}`);
  remove.onclick = () => change(props.value.boxes.filter((_, i) => i !== index));
  row.append(name, ...numbers, remove);
  return row;
}

function build() {
  const value = props.value;
  canvas.style.aspectRatio = value.aspect || 1;
  canvas.replaceChildren(...value.boxes.map(boxNode));
  const list = make("datalist", { id: "layout-phrases" }, ...value.phrases.map((phrase) => make("option", { value: phrase })));
  const heads = ["for", "left", "top", "right", "bottom", ""].map((text) => make("span", { textContent: text }));
  const header = value.boxes.length ? [make("div", { className: "row head", ariaHidden: "true" }, ...heads)] : [];
  const add = make("button", { type: "button", className: "add", textContent: "Add a box" });
  add.onclick = () => change([...value.boxes, { phrase: nextPhrase(), box: [0.25, 0.25, 0.75, 0.75] }], value.boxes.length);
  table.replaceChildren(list, ...header, ...value.boxes.map(rowNode), add);
  hint.textContent = value.boxes.length
    ? "Drag a box to move it, a corner to resize it. Arrow keys work too."
    : "Drag on the canvas to draw a box for something the prompt names.";
}

watch("value", build);
build();
