// A result: pictures side by side, what became of each thing, attention, boxes, recipe; and a strip of the last ones.
// props.value: {results: [view], stored} to show, {live: {titles, side, image, maps: [[word, image]]}} while drawing; see result_view.py.
const root = element.querySelector(".result-view");
const make = (tag, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};
const KEPT = 12;
const STORE = props.store ?? "attncontrol-results";
const LABELS = { right: "there", missing: "missing", "wrong colour": "wrong colour", "in the wrong place": "in the wrong place" };
const heatAt = (value) => {
  const at = Math.min(1, Math.max(0, value)) * (props.heat.length - 1);
  const low = Math.min(Math.floor(at), props.heat.length - 2);
  return props.heat[low].map((c, i) => c + (props.heat[low + 1][i] - c) * (at - low));
};
const gradient = `linear-gradient(90deg, ${props.heat.map((c) => `rgb(${c.join()})`).join()})`;

let kept = []; // the session's results, the newest first
let shown = null;
let sheet = null; // the pixels of the attention maps of what is shown
let pinned = -1; // the word whose maps stay, -1: none
let pointed = -1; // the word under the pointer or the focus
let step = 0; // 0 is the mean of all
let playing = null;
let over = false;

function remember() {
  for (; ; kept = kept.slice(0, -1)) {
    try {
      sessionStorage.setItem(STORE, JSON.stringify(kept));
      return;
    } catch {
      if (!kept.length) return; // no storage at all: the strip lives as long as the page
    }
  }
}

function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE)) ?? [];
  } catch {
    return [];
  }
}

// Attention

async function readSheet(view) {
  sheet = null;
  if (!view.maps) return;
  const image = make("img", { src: view.maps.image });
  await image.decode();
  if (shown !== view) return;
  const canvas = make("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  sheet = { context, width: image.width / (view.maps.steps + 1), height: image.height / (view.sides.length * view.maps.words.length) };
  paint();
}

function paint() {
  const word = pointed >= 0 ? pointed : pinned;
  const ready = sheet && word >= 0;
  root.querySelectorAll(".heat").forEach((canvas, side) => {
    canvas.hidden = !ready;
    if (!ready) return;
    const row = side * shown.maps.words.length + word;
    const tile = sheet.context.getImageData(step * sheet.width, row * sheet.height, sheet.width, sheet.height);
    for (let i = 0; i < tile.data.length; i += 4) tile.data.set(heatAt(tile.data[i] / 255), i);
    Object.assign(canvas, { width: sheet.width, height: sheet.height });
    canvas.getContext("2d").putImageData(tile, 0, 0);
  });
  root.querySelectorAll(".attention .token").forEach((button, i) => {
    button.classList.toggle("on", i === word);
    button.setAttribute("aria-pressed", i === pinned);
  });
  const scale = root.querySelector(".scale");
  if (!scale) return;
  scale.classList.toggle("off", word < 0);
  scale.querySelector("output").textContent = word < 0 ? "highest" : shown.maps.peaks[word][step ? 1 : 0].toFixed(3);
  root.querySelector(".map-step").value = step;
  root.querySelector(".step-name").textContent = step ? `step ${step} of ${shown.maps.steps}` : `mean of ${shown.maps.steps} steps`;
  root.querySelector(".play").textContent = playing ? "❚❚" : "▶";
  root.querySelector(".play").setAttribute("aria-label", playing ? "Stop" : "Play the attention over the steps");
}

function stop() {
  clearInterval(playing);
  playing = null;
}

function play() {
  if (playing) stop();
  else {
    if (pinned < 0) pinned = 0;
    step = 0;
    playing = setInterval(() => {
      step += 1;
      if (step >= shown.maps.steps) stop();
      paint();
    }, 150);
  }
  paint();
}

function token(text, index) {
  const button = make("button", { type: "button", className: "token", textContent: text });
  button.dataset.colour = index % 6;
  button.onpointerenter = (event) => event.pointerType === "mouse" && point(index);
  button.onpointerleave = () => point(-1);
  button.onclick = () => {
    pinned = pinned === index ? -1 : index;
    pointed = -1;
    paint();
  };
  return button;
}

function point(index) {
  pointed = index;
  paint();
}

function attention(view) {
  if (!view.maps) return make("p", { className: "hint no-attention", textContent: "No attention maps: the prompt names no subject. Choose one by clicking a word." });
  const words = make("div", { className: "line", role: "group" }, make("span", { textContent: view.mask ? "Where is the new thing?" : "Where does the model look for" }), ...view.maps.words.map(token));
  words.setAttribute("aria-label", view.mask ? "Things whose place can be shown" : "Words whose attention can be shown");
  if (view.mask) return make("div", { className: "attention" }, words); // it has no steps
  const button = make("button", { type: "button", className: "play" });
  button.onclick = play;
  const slider = make("input", { type: "range", className: "map-step", min: 0, max: view.maps.steps, value: 0 });
  slider.setAttribute("aria-label", "Sampling step of the attention, 0 is the mean of all");
  slider.oninput = () => {
    stop();
    step = Number(slider.value);
    if (pinned < 0) pinned = 0;
    paint();
  };
  const name = make("output", { className: "step-name" });
  const bar = make("span", { className: "bar" });
  bar.style.background = gradient;
  const scale = make("span", { className: "scale", title: "The share of attention that a place gives to the word" }, "0 ", bar, " ", make("output"));
  return make("div", { className: "attention" }, words, make("div", { className: "line" }, button, slider, name, scale));
}

// Pictures

function frame(side, view) {
  const node = make("div", { className: "frame" });
  node.style.aspectRatio = view.aspect;
  const alt = `${view.prompt}, ${side.title}${side.things.map(([name, state]) => `; ${name}: ${LABELS[state]}`).join("")}`;
  node.append(make("img", { src: side.shown || side.image, alt }), make("canvas", { className: "heat", hidden: true }));
  view.boxes.forEach(({ phrase, box: [x0, y0, x1, y1] }, i) => {
    const box = make("span", { className: "box" }, make("span", { className: "name", textContent: phrase }));
    box.dataset.colour = i % 6;
    Object.assign(box.style, { left: `${x0 * 100}%`, top: `${y0 * 100}%`, width: `${(x1 - x0) * 100}%`, height: `${(y1 - y0) * 100}%` });
    node.append(box);
  });
  return node;
}

function mark([name, state]) {
  const right = state === "right";
  return make("span", { className: right ? "yes" : "no" }, `${right ? "✓" : "✗"} ${name}`, make("span", { className: "sr-only", textContent: ` is ${LABELS[state]}` }));
}

function figure(side, view) {
  const save = make("a", { className: "save", href: side.image, download: side.file, textContent: "PNG", title: "Download this picture; its recipe is inside" });
  save.setAttribute("aria-label", `Download the picture ${side.title} as PNG, with its recipe inside`);
  const caption = make("figcaption", {}, make("b", { textContent: side.title }), make("span", { className: "verdict" }, ...side.things.map(mark)), save);
  return make("figure", {}, caption, frame(side, view));
}

function change([name, before, after]) {
  const same = before === after;
  const kind = after === "right" ? "good" : "bad";
  const now = after === "right" && before !== "missing" ? "right" : LABELS[after];
  const then = before === "right" && after !== "missing" ? "right" : LABELS[before];
  const text = same ? `${name}: ${LABELS[after]} in both` : `${name}: ${then} → ${now}`;
  return make("li", { className: same && kind === "good" ? "same" : kind, textContent: text });
}

function pictures(view) {
  if (!over || view.sides.length < 2) return make("div", { className: `sides of-${view.sides.length}` }, ...view.sides.map((side) => figure(side, view)));
  const [below, above] = view.sides.map((side) => frame(side, view));
  const range = make("input", { type: "range", min: 0, max: 100, value: 50 });
  range.setAttribute("aria-label", `How much of the picture ${view.sides[0].title} is seen, in percent`);
  const cut = () => (above.style.clipPath = `inset(0 0 0 ${range.value}%)`);
  range.oninput = cut;
  cut();
  return make("div", { className: "over" }, make("div", { className: "stack" }, below, above), range);
}

function toggle(view) {
  const box = make("input", { type: "checkbox", checked: over });
  box.onchange = () => {
    over = box.checked;
    build(view);
    root.querySelector(".as-slider input").focus();
  };
  return make("label", { className: "as-slider" }, box, " one over the other");
}

// Recipe

async function copy(text, button, code) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // no clipboard on pages that are not secure
    button.textContent = "Selected: press Ctrl+C";
  }
}

function program(name, id, text) {
  const code = make("code", { textContent: text });
  const button = make("button", { type: "button", className: "copy", textContent: `Copy as ${name}` });
  button.onclick = () => copy(text, button, code);
  return make("div", { className: "program", id }, button, make("pre", { tabIndex: 0, ariaLabel: name, role: "group" }, code));
}

function recipe(view) {
  const programs = make("div");
  const choose = (side) => programs.replaceChildren(program("Python", "as-python", side.python), program("a command line", "as-command", side.command));
  const choice = make("select", {}, ...view.sides.map((side, i) => make("option", { value: i, textContent: side.title, selected: i === view.sides.length - 1 })));
  choice.setAttribute("aria-label", "The picture whose recipe is shown");
  choice.onchange = () => choose(view.sides[choice.value]);
  choose(view.sides.at(-1));
  return make("details", { id: "recipe" }, make("summary", { textContent: "Make it yourself: as Python, as a command line" }), choice, programs);
}

function loss(view) {
  const drawing = make("div", { id: "loss" });
  drawing.innerHTML = view.loss; // made by the server, its texts escaped
  return make("details", {}, make("summary", { textContent: "The loss, step by step" }), drawing);
}

// The strip

function strip() {
  const items = kept.map((view) => {
    const side = view.sides.at(-1);
    const right = side.things.filter(([, state]) => state === "right").length;
    const note = side.things.length ? ` ${right}/${side.things.length} ✓` : "";
    const button = make("button", { type: "button" }, make("img", { src: side.shown || side.image, alt: "" }), make("span", { textContent: `${view.prompt}, ${view.seed}` }), make("small", { textContent: `${view.method}${note}` }));
    button.setAttribute("aria-pressed", view === shown);
    button.onclick = () => {
      show(view);
      root.querySelector(".strip [aria-pressed=true]")?.focus();
    };
    return button;
  });
  const node = make("div", { className: "strip scroll", role: "group", hidden: !kept.length }, ...items);
  node.setAttribute("aria-label", "Results of this session");
  return node;
}

function build(view) {
  rest();
  root.replaceChildren(
    make("p", { className: "sentence", role: "status", textContent: view.sentence }),
    pictures(view),
    make("div", { className: "line below" }, make("ul", { className: "changes" }, ...view.changes.map(change)), ...(view.sides.length > 1 ? [toggle(view)] : [])),
    attention(view),
    strip(),
    recipe(view),
    ...(view.loss ? [loss(view)] : []),
  );
  paint();
}

function rest() {
  root.classList.remove("busy");
  root.style.minHeight = "";
}

function showNothing() {
  rest();
  root.replaceChildren(make("p", { className: "sentence", textContent: props.hint ?? "The same seed, without and with control, appears here." }), make("div", { className: "sides" }));
}

function show(view) {
  stop();
  [shown, pinned, pointed, step] = [view, -1, -1, 0];
  sheet = null;
  build(view);
  readSheet(view);
}

// Where the model looks just now: the words' maps, below the picture they are of.
function liveAttention(titles) {
  const columns = titles.map((title) => {
    const column = make("div", { className: "line", role: "group" });
    column.setAttribute("aria-label", `Attention of the step just drawn, ${title}`);
    return column;
  });
  const text = make("span", { textContent: "Where the model looks for each word just now" });
  return make("div", { className: "attention live" }, make("div", { className: "line" }, text), make("div", { className: `sides of-${titles.length}` }, ...columns));
}

function showLive({ titles, side, image, maps }) {
  if (!root.classList.contains("busy")) {
    stop();
    [pinned, pointed, over] = [-1, -1, false];
    root.style.minHeight = `${root.offsetHeight}px`; // what is below stays where it is
    const blank = (title) => make("figure", {}, make("figcaption", {}, make("b", { textContent: title })), make("div", { className: "frame" }));
    root.querySelector(".sides, .over")?.replaceWith(make("div", { className: `sides of-${titles.length}` }, ...titles.map(blank)));
    root.querySelectorAll(".strip, details").forEach((node) => (node.inert = true));
    root.querySelectorAll(".attention, .no-attention").forEach((node) => node.remove());
    root.querySelector(".sides").after(liveAttention(titles));
    root.querySelectorAll(".frame").forEach((node) => (node.style.aspectRatio = shown?.aspect ?? 1));
    root.querySelector(".sentence").textContent = "Drawing: the picture that the model predicts so far.";
    root.classList.add("busy");
  }
  root.querySelectorAll(".frame")[side].replaceChildren(make("img", { src: image, alt: `the forming picture ${titles[side]}` }));
  const thumbnails = maps.map(([word, map], i) => {
    const figure = make("figure", { className: "map" }, make("img", { src: map, alt: "" }), make("figcaption", { textContent: word }));
    figure.dataset.colour = i % 6;
    return figure;
  });
  root.querySelectorAll(".attention.live [role=group]")[side].replaceChildren(...thumbnails);
}

function update() {
  const value = props.value;
  if (value.live) showLive(value.live);
  else if (value.results) {
    if (!value.stored) {
      kept = [...value.results, ...kept].slice(0, KEPT);
      remember();
    }
    if (value.results.length) show(value.results[0]);
    else showNothing();
  }
}

addEventListener("job-ended", () => root.classList.contains("busy") && (shown ? show(shown) : showNothing())); // cancelled, or failed
watch("value", update);
kept = recall();
if (kept.length) show(kept[0]);
else update();
