// A click on a card of an example. props.value: {index}.
element.querySelectorAll(".card").forEach((card) => {
  card.onclick = () => {
    props.value = { index: Number(card.dataset.index) };
    element.querySelectorAll(".card").forEach((other) => other.setAttribute("aria-pressed", other === card));
    trigger("select");
    document.getElementById("ask").scrollIntoView({ block: "nearest" }); // on a phone the result is above the cards
  };
});
