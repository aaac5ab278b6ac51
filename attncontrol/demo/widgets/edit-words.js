// The words of the prompt before; a click on one selects it in the prompt after, to be written over.
// props.value: {prompt}; props.target: where the prompt after is typed.
const root = element.querySelector(".edit-words");
const WORDS = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu;

function select(word, nth) {
  const field = document.querySelector(props.target);
  const found = [...field.value.matchAll(WORDS)].filter(([text]) => text === word);
  const at = found[Math.min(nth, found.length - 1)];
  field.focus();
  if (at) field.setSelectionRange(at.index, at.index + word.length);
}

function build() {
  const words = [...(props.value?.prompt ?? "").matchAll(WORDS)].map(([text]) => text);
  root.replaceChildren(
    ...words.map((text, i) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.setAttribute("aria-label", `Change “${text}”`);
      button.onclick = () => select(text, words.slice(0, i).filter((other) => other === text).length);
      return button;
    }),
  );
}

watch("value", build);
build();
