// Keeps a page current: fetches its own address and swaps the content, unless somebody is at work
// in it (a focused field, an open form) or does not look.
"use strict";
(() => {
  const live = document.getElementById("live");
  const every = Number(live.dataset.live);
  const stale = document.getElementById("stale");
  if (!every) return;

  const busy = () => {
    const at = document.activeElement;
    return document.hidden || live.querySelector("details.override[open]") || (at && at.matches("input, textarea, select"));
  };

  const swap = (fresh) => {
    if (fresh.innerHTML === live.innerHTML) return;
    const scrolls = [...live.querySelectorAll(".canvas, .scroll, .panel")].map((e) => [e.scrollLeft, e.scrollTop]);
    const focused = document.activeElement && document.activeElement.getAttribute("href");
    live.innerHTML = fresh.innerHTML;
    live.querySelectorAll(".canvas, .scroll, .panel").forEach((e, i) => {
      if (scrolls[i]) [e.scrollLeft, e.scrollTop] = scrolls[i];
    });
    if (focused) {
      const again = live.querySelector(`a[href="${CSS.escape(focused)}"]`);
      if (again) again.focus({ preventScroll: true });
    }
  };

  const refresh = async () => {
    try {
      if (!busy()) {
        const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(5000) });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById("live");
        if (!answer.ok || !fresh) throw new Error(answer.statusText);
        swap(fresh);
      }
      stale.hidden = true;
    } catch {
      stale.hidden = false;
    }
    setTimeout(refresh, every);
  };
  setTimeout(refresh, every);
})();
