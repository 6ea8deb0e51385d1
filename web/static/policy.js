// Sends orders: every one is asked for twice and answered beside the buttons.
"use strict";
(() => {
  const say = (text) => {
    const place = document.getElementById("order-answer");
    if (place) place.textContent = text;
  };

  const post = async (path, body) => {
    try {
      const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body });
      const json = await answer.json().catch(() => ({}));
      say(answer.ok ? "accepted" : json.error ? json.error.message : answer.statusText);
    } catch (error) {
      say(`not sent: ${error.message}`);
    }
  };

  // on the document, because the content is swapped
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-order], button[data-post]");
    if (!button || !confirm(button.dataset.confirm)) return;
    post(button.dataset.post || "/api/v1/policy", button.dataset.order || "{}");
  });

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "override") return;
    event.preventDefault();
    const field = (name) => event.target.elements[name].value.trim();
    const number = (name) => (field(name) === "" ? null : Number(field(name)));
    const minutes = number("minutes");
    const policy = {
      service: field("service"),
      route: null,
      concurrency_limit:
        number("limit") === null ? null : { limit: number("limit"), queue: number("queue") || 0, queue_timeout_ms: number("queue_timeout_ms") || 0 },
      rate_limit: number("rate_per_s") === null ? null : { rate_per_s: number("rate_per_s"), burst: Math.max(1, Math.ceil(number("rate_per_s") / 10)) },
      breaker: null,
      reason: field("reason"),
    };
    const expires_unix_nano = minutes ? Math.round((Date.now() + minutes * 60000) * 1e6) : null;
    event.target.closest("details").open = false;
    post("/api/v1/policy", JSON.stringify({ override: { policy, author: "web", expires_unix_nano } }));
  });
})();
