// A method's settings as a form. props.value: {method, fields, values}; see settings_form in widgets.py.
const root = element.querySelector(".settings-form");
const make = (tag, attributes = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};

function store(name, value) {
  props.value = { ...props.value, values: { ...props.value.values, [name]: value } };
  mark();
}

function input(field, id) {
  const value = props.value.values[field.name];
  if (field.kind === "yes") {
    const box = make("input", { type: "checkbox", checked: value });
    box.onchange = () => store(field.name, box.checked);
    return box;
  }
  if (field.kind === "choice") {
    const list = make("select", {}, ...field.choices.map((c) => make("option", { value: c, textContent: c, selected: c === value })));
    list.onchange = () => store(field.name, list.value);
    return list;
  }
  const box = make("input", { type: field.kind === "number" ? "number" : "text", value: value });
  if (field.kind === "number") {
    box.step = "any";
    if (field.least !== null) box.min = field.least;
    if (field.most !== null) box.max = field.most;
  }
  box.oninput = () => store(field.name, field.kind === "number" && box.value !== "" ? Number(box.value) : box.value);
  return box;
}

function mark() {
  for (const field of props.value.fields) {
    const row = root.querySelector(`[data-name="${field.name}"]`);
    row?.classList.toggle("changed", props.value.values[field.name] !== field.default);
  }
}

function build() {
  const value = props.value || { fields: [] };
  root.replaceChildren();
  for (const field of value.fields) {
    const id = `setting-${field.name}`;
    const control = input(field, id);
    control.id = id;
    control.setAttribute("aria-describedby", `${id}-help`);
    const label = make("label", { htmlFor: id, textContent: field.name.replaceAll("_", " ") });
    const help = make("p", { id: `${id}-help`, textContent: field.help });
    const row = make("div", { className: `setting ${field.kind}` }, label, control, help);
    row.dataset.name = field.name;
    root.append(row);
  }
  if (!value.fields.length) root.append(make("p", { className: "nothing", textContent: "Plain sampling has no settings." }));
  mark();
}

watch("value", build);
build();
