(prompt, method, seed, layout) => {
  // What the fields say, in the page's address: a reload keeps it, a link shares it.
  const boxes = layout.boxes.map(({ phrase, box }) => [phrase, ...box]);
  const query = new URLSearchParams({ prompt, method, seed });
  if (boxes.length) query.set("boxes", JSON.stringify(boxes));
  history.replaceState(history.state, "", `?${query}`);
};
