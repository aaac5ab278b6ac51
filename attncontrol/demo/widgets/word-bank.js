// A click on a word that the model knows. props.value: {word, colours}.
element.querySelectorAll("[data-word]").forEach((button) => {
  button.onclick = () => {
    props.value = { ...props.value, word: button.dataset.word };
    trigger("select");
  };
});
