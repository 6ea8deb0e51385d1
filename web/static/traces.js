// The search works without this; it suggests values once a key and "=" are typed.
"use strict";
(() => {
  const list = document.getElementById("attributes");
  const keys = [...list.options].map((option) => option.value);
  let shown = "";

  const fill = (values) => list.replaceChildren(...values.map((value) => Object.assign(document.createElement("option"), { value })));

  const suggest = async (text) => {
    const end = text.indexOf("=");
    const key = end < 0 ? "" : text.slice(0, end);
    if (key === shown) return;
    shown = key;
    if (key === "") return fill(keys);
    try {
      const answer = await fetch(`/api/v1/attribute_values?key=${encodeURIComponent(key)}`, { signal: AbortSignal.timeout(5000) });
      const { values } = await answer.json();
      // typed on meanwhile
      if (answer.ok && key === shown) fill(values.map(({ value }) => `${key}=${value}`));
    } catch {
      fill([]);
    }
  };

  document.querySelectorAll("input[name=attribute]").forEach((input) => {
    for (const event of ["input", "focus"]) input.addEventListener(event, () => suggest(input.value));
  });
})();
