// The SQL page works without this; it adds Ctrl+Enter and clicking a column into the statement.
"use strict";
(() => {
  const form = document.getElementById("sql");
  const text = document.getElementById("q");
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  document.querySelectorAll("button.insert").forEach((button) => {
    button.addEventListener("click", () => {
      text.setRangeText(button.dataset.insert, text.selectionStart, text.selectionEnd, "end");
      text.focus();
    });
  });
})();
