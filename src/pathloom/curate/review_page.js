(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const items = data.items, $ = (id) => document.getElementById(id);
  const KEY = "pathloom-review/" + data.page_id, UNDO_MAX = 500;

  // What a reviewer said, kept at once: state[reviewer] = {at, decisions: {id: {value, decided_at}}, notes, log}.
  // Without a prototype, so that a sample or a reviewer may be called anything.
  const bare = (object) => Object.assign(Object.create(null), object);
  let kept = {reviewer: "", of: bare()}, storage = true, unsaved = false;
  const load = () => {
    let found = null;
    try { found = JSON.parse(localStorage.getItem(KEY)); } catch { storage = false; }
    if (!found || typeof found.reviewer !== "string") return;
    kept = {reviewer: found.reviewer, of: bare(found.of)};
    for (const one of Object.values(kept.of)) { one.decisions = bare(one.decisions); one.notes = bare(one.notes); }
  };
  const save = () => {
    unsaved = true;
    try { localStorage.setItem(KEY, JSON.stringify(kept)); storage = true; } catch { storage = false; }
    $("unkept").hidden = storage;
  };
  const mine = () => kept.of[kept.reviewer] ||= {at: 0, decisions: bare(), notes: bare(), log: []};
  const decision = (item) => mine().decisions[item.id];
  const open = (item) => !decision(item);
  let onlyOpen = false;

  // Everything that a sample says enters the page here, as text.
  const el = (tag, name, ...inside) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...inside.filter((part) => part !== null));
    return made;
  };
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  let timer = 0;
  const say = (text) => {
    clearTimeout(timer);
    $("toast").textContent = text;
    timer = setTimeout(() => { $("toast").textContent = ""; }, 4000);
  };

  const picture = (image, number, count) => {
    const labels = image.boxes.map((box) => box.label).filter(Boolean);
    const about = image.about + (labels.length ? ". Boxes: " + labels.join(", ") : "");
    if (!image.src) return el("figure", "", el("div", "frame fault text", "No picture: " + image.fault), el("figcaption", "", about));
    const img = el("img");
    img.src = image.src;
    img.width = image.width;
    img.height = image.height;
    if (Math.max(image.width, image.height) < 200) img.className = "small";
    img.alt = count > 1 ? "Picture " + (number + 1) + " of " + count : "Picture to review";
    const frame = el("div", image.boxes.length ? "frame boxed" : "frame", img);
    if (image.boxes.length) {
      const layer = svg("svg", {viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true"});
      for (const {at: [x1, y1, x2, y2]} of image.boxes) {
        for (const kind of ["halo", "box"]) layer.append(svg("rect", {class: kind, x: x1, y: y1, width: x2 - x1, height: y2 - y1}));
      }
      frame.append(layer);
    }
    return el("figure", "", frame, el("figcaption", "text", (count > 1 ? number + 1 + ": " : "") + about));
  };
  const part = (title, text, name) => text ? el("section", "", el("h3", "", title), el("p", "text " + (name || ""), text)) : null;
  const turn = ([question, answer]) => el("div", "", el("p", "text", el("strong", "", question)), el("p", "text", answer));
  const option = ({text, right}) =>
    el("li", right ? "right" : "", el("span", "text", text), right ? el("small", "", "\u2713 right answer") : null);

  const attribute = ({name, value, by, votes, broken}) => el("tr", broken ? "broken" : "",
    el("th", "text", (broken ? "\u26a0 " : "") + name), el("td", "text", value), el("td", "", by),
    el("td", "text", votes));
  const headings = ["Attribute", "Value", "Given by", "What annotators said"];
  const contradiction = ({finding, lines, attributes}) => [
    el("section", "", el("h3", "", "Class"), el("h2", "text", finding)),
    el("section", "", el("h3", "", "What contradicts the class"), el("ul", "against", ...lines.map((line) => el("li", "text", line)))),
    el("table", "", el("tbody", "", el("tr", "", ...headings.map((heading) => el("th", "", heading))), ...attributes.map(attribute)))];

  const drawItem = (item) => {
    const words = el("div", "words",
      ...(item.contradiction ? contradiction(item.contradiction) : []),
      item.earlier.length ? el("section", "", el("h3", "", "Earlier in this conversation"), el("div", "turns", ...item.earlier.map(turn))) : null,
      item.question ? el("section", "", el("h3", "", "Question"), el("h2", "text", item.question)) : null,
      item.choices.length ? el("ul", "options", ...item.choices.map(option)) : null,
      item.choices.some((choice) => choice.right) ? null : part(item.answer_is, item.answer),
      part("Reasoning", item.reasoning, "reasoning"),
      part("What the source says", item.context),
      el("dl", "facts", ...[["sample", item.name], ...item.facts].flatMap(([name, value]) => [el("dt", "", name), el("dd", "text", value)])));
    const pictures = el("div", item.images.length > 1 ? "pictures many" : "pictures", ...item.images.map((image, i) => picture(image, i, item.images.length)));
    if (item.images_left_out) pictures.append(el("p", "soft", item.images_left_out + " more pictures are not on this page"));
    $("item").className = item.images.length ? "" : "wordy";
    $("item").replaceChildren(...(item.images.length ? [pictures] : []), words);
  };

  let drawn = null;
  const draw = () => {
    const state = mine();
    state.at = Math.min(Math.max(Math.trunc(state.at) || 0, 0), items.length - 1);
    const item = items[state.at], said = decision(item), count = items.filter((each) => !open(each)).length;
    if (drawn !== item) { drawItem(item); window.scrollTo(0, 0); drawn = item; }
    $("who").textContent = kept.reviewer || "nobody yet";
    $("place").textContent = state.at + 1 + " of " + items.length;
    $("decided").textContent = count + " decided";
    $("progress").max = items.length;
    $("progress").value = count;
    $("filter").setAttribute("aria-pressed", String(onlyOpen));
    $("undo").disabled = !state.log.length;
    const sure = item.confidence === null ? "" : ", probability " + item.confidence.toFixed(2);
    $("suggestion").textContent = item.suggestion === null ? "" : "suggested: " + item.suggestion + sure;
    const note = state.notes[item.id];
    $("noted").textContent = [said ? "decided: " + said.value : "", note ? "note: " + note : ""].filter(Boolean).join(" \u00b7 ");
    $("noted").hidden = !$("noted").textContent;
    data.choices.forEach((choice, i) => {
      const button = $("choices").children[i], suggested = choice.value !== null && choice.value === item.suggestion;
      const pressed = said && (choice.value === null ? data.reasons.some((r) => r.value === said.value) : choice.value === said.value);
      button.setAttribute("aria-pressed", String(Boolean(pressed)));
      button.classList.toggle("suggested", suggested);
      button.querySelector(".enter").hidden = !suggested;
    });
  };
  const go = (at) => { mine().at = at; save(); draw(); };
  const step = (by) => {
    let at = mine().at + by;
    while (onlyOpen && items[at] && !open(items[at])) at += by;
    if (items[at]) go(at);
    else say(by > 0 ? "This is the last sample" + (onlyOpen ? " that is undecided." : ".") : "This is the first sample" + (onlyOpen ? " that is undecided." : "."));
  };
  const onward = () => {
    const state = mine(), left = items.filter(open).length;
    const later = items.findIndex((item, i) => i > state.at && (!onlyOpen || open(item)));
    if (!left) { say("All " + items.length + " are decided. Press E to export."); draw(); }
    else if (later >= 0) go(later);
    else {
      say(left + (left > 1 ? " samples are" : " sample is") + " still undecided.");
      go(items.findIndex(open));
    }
  };
  const decide = (value) => {
    if (!kept.reviewer) return askName(() => decide(value));
    const state = mine(), item = items[state.at];
    state.log.push({id: item.id, before: decision(item) || null});
    state.log.splice(0, state.log.length - UNDO_MAX);
    state.decisions[item.id] = {value, decided_at: new Date().toISOString()};
    save();
    onward();
  };
  const undo = () => {
    const state = mine(), last = state.log.pop();
    if (!last) return say("There is nothing to undo.");
    if (last.before) state.decisions[last.id] = last.before;
    else delete state.decisions[last.id];
    go(Math.max(0, items.findIndex((item) => item.id === last.id)));
    say("Undone.");
  };
  const accept = () => {
    const suggestion = items[mine().at].suggestion;
    if (suggestion === null) say("There is no suggestion to accept here.");
    else decide(suggestion);
  };
  const choose = (choice) => choice.value === null ? show("reason_dialog") : decide(choice.value);
  const filter = () => {
    if (!onlyOpen && !items.some(open)) return say("All " + items.length + " are decided.");
    onlyOpen = !onlyOpen;
    const at = mine().at, later = items.findIndex((item, i) => i >= at && open(item));
    go(!onlyOpen || open(items[at]) ? at : later >= 0 ? later : items.findIndex(open));
  };

  const show = (id) => { $(id).showModal(); };
  const close = (id) => { $(id).close(); $("item").focus({preventScroll: true}); };
  let then = () => {};
  const askName = (after) => { then = after; $("name").value = kept.reviewer; show("name_dialog"); };
  const named = () => {
    const name = tidy($("name").value);
    if (!name) return;
    close("name_dialog");
    kept.reviewer = name;
    save();
    draw();
    then();
  };
  let noted = () => {};
  const askNote = (after) => { noted = after; $("note_text").value = mine().notes[items[mine().at].id] || ""; show("note_dialog"); };
  const note = () => kept.reviewer ? askNote(() => {}) : askName(note);
  const saveNote = () => {
    const state = mine(), item = items[state.at], text = $("note_text").value.trim(), said = decision(item);
    if (text) state.notes[item.id] = text;
    else delete state.notes[item.id];
    if (said) said.decided_at = new Date().toISOString();
    close("note_dialog");
    save();
    draw();
    noted();
  };
  const drop = (reason) => {
    close("reason_dialog");
    if (!kept.reviewer) askName(() => drop(reason));
    else if (reason.value.endsWith(": other") && !mine().notes[items[mine().at].id]) askNote(() => decide(reason.value));
    else decide(reason.value);
  };

  const well = (text) => text.toWellFormed ? text.toWellFormed() : text;
  const tidy = (name) => name.trim().replace(/\s+/g, " ");
  const exportAll = () => {
    if (!kept.reviewer) return askName(exportAll);
    const state = mine(), decided = items.filter((item) => !open(item));
    if (!decided.length) return say("Nothing is decided yet.");
    const lines = decided.map((item) => JSON.stringify({
      sample_id: item.id, field: data.field, value: decision(item).value, reviewer: well(kept.reviewer),
      note: well(state.notes[item.id] || ""), page_id: data.page_id, content: item.content,
      decided_at: decision(item).decided_at,
    }) + "\n");
    const link = el("a"), url = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
    link.href = url;
    link.download = ["review", data.field, data.page_id, kept.reviewer].join("-").replace(/[^\p{L}\p{N}_-]+/gu, "_") + ".jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    unsaved = false;
    const alone = items.filter((item) => open(item) && state.notes[item.id]).length;
    say(decided.length + " decisions are exported." + (alone ? " Notes without a decision are left out: " + alone + "." : ""));
  };

  const button = (choice, act) => {
    const made = el("button", "", el("kbd", "", choice.key.toUpperCase()), el("span", "", choice.label));
    made.type = "button";
    made.addEventListener("click", act);
    return made;
  };
  for (const choice of data.choices) {
    const made = button(choice, () => choose(choice));
    made.append(el("kbd", "enter", "Enter"));
    $("choices").append(made);
  }
  $("choices").className = data.choices.length <= 4 ? "few" : data.choices.length > 10 ? "menu" : "";
  for (const reason of data.reasons) $("reasons").append(button(reason, () => drop(reason)));
  $("ask").textContent = data.ask;
  const keys = data.choices.map((choice) => el("kbd", "", choice.key.toUpperCase()));
  $("help_choose").append(...(keys.length > 4 ? [keys[0], " \u2026 ", keys.at(-1)] : keys.flatMap((key) => [key, " "])));

  const suggests = items.some((item) => item.suggestion !== null);
  for (const id of ["help_enter", "help_accept"]) $(id).hidden = !suggests;

  const commands = bare({
    arrowleft: () => step(-1), h: () => step(-1), arrowright: () => step(1), l: () => step(1),
    u: undo, n: note, f: filter, e: exportAll, enter: accept, "?": () => show("help_dialog"),
  });
  const repeats = ["arrowleft", "arrowright", "h", "l"];
  for (const choice of data.choices) commands[choice.key] = () => choose(choice);
  const reasons = bare(Object.fromEntries(data.reasons.map((reason) => [reason.key, () => drop(reason)])));

  // The key's character where it is one of ours; its place on the keyboard for digits that need Shift and for other scripts.
  const keyOf = (event, table) => {
    const typed = event.key.toLowerCase(), place = event.code.replace(/^(Key|Digit|Numpad)/, "").toLowerCase();
    if (table[typed]) return typed;
    return /^[ -~]+$/.test(event.key) && !/^(Digit|Numpad)/.test(event.code) ? "" : place;
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const dialog = document.querySelector("dialog[open]");
    if (dialog && dialog.id !== "reason_dialog") return;
    if (event.target.closest("input, textarea")) return;
    if (event.key === "Enter" && event.target.closest("button")) return;
    const table = dialog ? reasons : commands, key = keyOf(event, table);
    if (!table[key]) return;
    event.preventDefault();
    // A key that is held down moves, but it never decides about a second sample.
    if (!event.repeat || (!dialog && repeats.includes(key))) table[key]();
  });
  // After a click the keyboard belongs to the sample again; otherwise Enter would press the same button once more.
  document.addEventListener("click", (event) => {
    if (event.detail && event.target.closest("button") && !document.querySelector("dialog[open]")) $("item").focus({preventScroll: true});
  });
  const on = (id, act) => $(id).addEventListener("click", act);
  on("previous", () => step(-1));
  on("next", () => step(1));
  on("filter", filter);
  on("undo", undo);
  on("note", note);
  on("help", () => show("help_dialog"));
  on("export", exportAll);
  on("who", () => askName(() => {}));
  on("name_ok", named);
  on("note_ok", saveNote);
  on("note_cancel", () => close("note_dialog"));
  on("reason_cancel", () => close("reason_dialog"));
  on("help_ok", () => close("help_dialog"));
  $("name").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); event.stopPropagation(); named(); }
  });
  $("note_text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); event.stopPropagation(); saveNote(); }
  });
  addEventListener("storage", (event) => { if (event.key === KEY) { load(); draw(); } });
  addEventListener("beforeunload", (event) => { if (!storage && unsaved) event.preventDefault(); });

  load();
  $("unkept").hidden = storage;
  draw();
  $("item").focus({preventScroll: true});
  if (!kept.reviewer) askName(() => {});
})();
