(result) => {
  // Of all that the tab Generate has, the picture of its newest result as a data URL, or null.
  let kept = [];
  try {
    kept = JSON.parse(sessionStorage.getItem("attncontrol-results")) ?? [];
  } catch {
    // no storage: what the page shows
  }
  const newest = kept[0] ?? result?.results?.[0];
  return [newest?.sides.at(-1).image ?? null];
};
