// Follows the runs: asks for what has changed every two seconds, and can ask a run to stop.
"use strict";
const token = document.querySelector('meta[name="luthier-token"]').content;
const words = JSON.parse(document.getElementById("live-words").textContent);
const status = document.getElementById("live");
const EVERY = 2000;
let tag = "";
const seen = {};
const keep = (section) => ({
  checked: [...section.querySelectorAll("input:checked")].map((input) => input.id),
  open: [...section.querySelectorAll("details")].map((details) => details.open),
  sorted: [...section.querySelectorAll("table.sortable")].map((table) => [table.id, table.dataset.sorted]),
  scrolled: [...section.querySelectorAll(".scroll")].map((box) => box.scrollLeft),
  focus: section.contains(document.activeElement) ? document.activeElement.id : "",
});
const restore = (section, kept) => {
  for (const id of kept.checked) { const input = document.getElementById(id); if (input) input.checked = true; }
  section.querySelectorAll("details").forEach((details, place) => { details.open = kept.open[place] ?? false; });
  sortable(section);
  for (const [id, how] of kept.sorted) {
    const table = document.getElementById(id);
    if (table && how) sort(table, ...how.split(" ").map(Number));
  }
  section.querySelectorAll(".scroll").forEach((box, place) => { box.scrollLeft = kept.scrolled[place] ?? 0; });
  if (kept.focus) document.getElementById(kept.focus)?.focus();
};
const show = (sections) => {
  for (const [id, part] of Object.entries(sections)) {
    if (seen[id] === part.mark) continue;
    seen[id] = part.mark;
    const section = document.getElementById(id);
    const kept = keep(section);
    section.querySelector(".body").innerHTML = part.html; // the server's own page, escaped where it is made
    section.hidden = part.html === "";
    const link = document.querySelector(`nav a[href="#${id}"]`);
    if (link) link.parentElement.hidden = section.hidden;
    restore(section, kept);
  }
};
const lost = (is) => {
  if (status.classList.contains("lost") === is) return;
  status.classList.toggle("lost", is);
  status.textContent = words[language()][is ? "live_lost" : "live"];
};
const look = async () => {
  try {
    const answer = await fetch("state.json", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      show((await answer.json()).sections);
    } else if (answer.status !== 304) throw new Error(answer.statusText);
    lost(false);
  } catch { lost(true); }
  setTimeout(look, document.hidden ? 5 * EVERY : EVERY);
};
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.stop");
  if (!button) return;
  const run = button.dataset.run;
  if (!confirm(words[language()].stop_sure.replace("{run}", run))) return;
  button.disabled = true;
  try {
    const answer = await fetch("stop", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Luthier-Token": token },
      body: JSON.stringify({ run }),
    });
    if (!answer.ok) throw new Error(answer.statusText);
    button.textContent = words[language()].asked_to_stop;
  } catch {
    button.disabled = false;
    alert(words[language()].stop_failed);
  }
});
look();
