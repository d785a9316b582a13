(() => {
  "use strict";
  const all = (selector) => [...document.querySelectorAll(selector)];
  const items = all(".example"), thumbs = all(".thumb"), filters = all(".filters select");
  if (!items.length) return;
  let shown = items, at = 0;
  const draw = () => {
    const current = shown[at];
    items.forEach((item) => { item.hidden = item !== current; });
    thumbs.forEach((thumb, i) => {
      thumb.hidden = !shown.includes(items[i]);
      thumb.toggleAttribute("aria-current", items[i] === current);
    });
    document.getElementById("count").textContent =
      shown.length ? (at + 1) + " of " + shown.length : "no example fits";
    const strip = document.getElementById("thumbs"), thumb = thumbs[items.indexOf(current)];
    if (thumb) strip.scrollLeft = thumb.offsetLeft - strip.clientWidth / 2;
  };
  const filter = (keep) => {
    shown = items.filter((item) => filters.every((f) => !f.value || item.dataset[f.name] === f.value));
    at = Math.max(0, shown.indexOf(keep));
    draw();
  };
  const step = (by) => { if (shown.length) { at = (at + by + shown.length) % shown.length; draw(); } };
  const show = (id) => {
    const item = items.find((each) => each.id === id);
    if (!item) return;
    if (!shown.includes(item)) { filters.forEach((f) => { f.value = ""; }); shown = items; }
    at = shown.indexOf(item);
    draw();
  };
  filters.forEach((f) => f.addEventListener("change", () => filter(shown[at])));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  all("a.jump").forEach((a) => a.addEventListener("click", (event) => {
    event.preventDefault();
    show(a.getAttribute("href").slice(1));
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest("select, input, textarea")) return;
    if (event.key === "ArrowLeft") { step(-1); event.preventDefault(); }
    if (event.key === "ArrowRight") { step(1); event.preventDefault(); }
  });
  document.documentElement.classList.add("scripted");
  draw();
  show(location.hash.slice(1));
})();
