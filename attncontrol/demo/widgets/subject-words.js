// The prompt's words; clicking makes them subjects or parts of one. props.value: see word_groups in widgets.py.
const root = element.querySelector(".subject-words");
let active = -1; // the group that clicks add to, -1: each click makes a subject of its own
const make = (tag, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};
const words = (group) => [...group.modifiers, group.noun];
const groupOf = (groups, word) => groups.findIndex((group) => words(group).includes(word));

function remove(groups, word) {
  const index = groupOf(groups, word);
  if (index < 0) return groups;
  const left = words(groups[index]).filter((w) => w !== word);
  const rest = left.length ? [{ noun: left.at(-1), modifiers: left.slice(0, -1) }] : [];
  return [...groups.slice(0, index), ...rest, ...groups.slice(index + 1)];
}

function click(word) {
  const before = props.value.groups;
  const own = groupOf(before, word);
  const target = active >= 0 ? before[active] : null;
  let groups = remove(before, word);
  if (own < 0 || (target && own !== active)) {
    const at = target ? groups.findIndex((group) => group.noun === target.noun) : -1;
    if (at >= 0) groups = groups.with(at, { ...groups[at], modifiers: [...groups[at].modifiers, word].sort((a, b) => a - b) });
    else groups = [...groups, { noun: word, modifiers: [] }].sort((a, b) => a.noun - b.noun);
  }
  const noun = target?.noun;
  active = groups.findIndex((group) => group.noun === noun);
  chosen = props.value = { ...props.value, groups, edited: true };
  build();
  root.querySelector(`[data-word="${word}"]`)?.focus();
  trigger("change");
}

function chip(word, index) {
  const value = props.value;
  const cut = !word.indices.length;
  const group = groupOf(value.groups, index);
  const role = group < 0 ? "" : value.groups[group].noun === index ? "noun" : "modifier";
  const button = make("button", { type: "button", className: `word ${role} ${cut ? "cut" : ""} ${word.unknown ? "unknown" : ""}`, disabled: cut });
  button.dataset.word = index;
  if (group >= 0) button.dataset.colour = group % 6;
  button.append(make("span", { textContent: word.text }));
  if (word.pieces.length > 1 && !word.unknown) button.append(make("small", { textContent: word.pieces.join("·") }));
  const part = role === "noun" ? "subject" : role === "modifier" ? `describes ${value.words[value.groups[group].noun].text}` : "no subject";
  button.title = cut ? "The text encoder does not see this word" : `${part}; ${word.pieces.length} token${word.pieces.length > 1 ? "s" : ""}: ${word.pieces.join("·")}`;
  button.setAttribute("aria-pressed", group >= 0);
  button.setAttribute("aria-label", `${word.text}: ${cut ? "cut off by the text encoder" : part}${word.unknown ? "; the model does not know this word" : ""}`);
  button.onclick = () => click(index);
  return button;
}

function choice(label, index) {
  const button = make("button", { type: "button", className: "target", textContent: label });
  if (index >= 0) button.dataset.colour = index % 6;
  button.setAttribute("role", "radio");
  button.setAttribute("aria-checked", active === index);
  button.onclick = () => {
    active = index;
    build();
  };
  return button;
}

function build() {
  const value = props.value;
  root.replaceChildren();
  if (!value?.words?.length) {
    root.append(make("p", { className: "hint", textContent: "The words of the prompt appear here." }));
    return;
  }
  if (active >= value.groups.length) active = -1;
  const line = make("div", { className: "line", role: "group" }, ...value.words.map(chip));
  line.setAttribute("aria-label", "Words of the prompt");
  const names = value.groups.map((group) => words(group).sort((a, b) => a - b).map((w) => value.words[w].text).join(" "));
  const targets = make("div", { className: "targets", role: "radiogroup" }, make("span", { textContent: "A click makes" }));
  targets.setAttribute("aria-label", "What a click on a word does");
  targets.append(choice("a new subject", -1), ...names.map((name, i) => choice(`part of “${name}”`, i)));
  const cut = value.tokens > value.kept;
  const count = `${value.tokens} tokens${cut ? `, of which the text encoder sees ${value.kept}` : ""}`;
  const source = value.edited ? "chosen by you" : `found by the parser`;
  const note = make("p", { className: `hint ${cut ? "warning" : ""}` }, `Subjects ${source} · ${count}. Click a word to make it a subject, or not.`);
  const unknown = [...new Set(value.words.filter((word) => word.unknown).map((word) => `“${word.text}”`))];
  root.append(line);
  if (unknown.length) {
    const says = `This model does not know ${unknown.join(", ")}: it was taught the words below only. For everything else: attncontrol demo --model CHECKPOINT.`;
    root.append(make("p", { className: "hint warning", role: "status", textContent: says }));
  }
  root.append(targets, note);
}

// Subjects that were chosen, by clicks or by a recipe: an answer about the typed prompt must not undo them.
let chosen = null;
watch("value", () => {
  if (props.value.typed && chosen?.prompt === props.value.prompt) props.value = chosen;
  else chosen = props.value.edited ? props.value : null;
  active = -1;
  build();
});
build();
