// Looking works without this file: times are then in UTC, languages are codes, and links are copied from the address bar.
"use strict";

function tellTimes(within) {
  for (const time of within.querySelectorAll("time[data-local]")) {
    const at = new Date(time.dateTime);
    time.title = time.textContent;
    time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  }
}
tellTimes(document);

function tellLanguages(within) {
  const names = new Intl.DisplayNames(undefined, { type: "language" });
  for (const heading of within.querySelectorAll("[data-language]")) {
    const code = heading.dataset.language;
    try { heading.textContent = `${names.of(code)} (${code})`; } catch { /* the code says enough */ }
  }
}
tellLanguages(document);

for (const button of document.querySelectorAll("[data-copy-link]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  });
}

// A button that was pressed stays pressed until the page is left, or shown again by the way back.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  setTimeout(() => event.target.querySelectorAll("button").forEach((each) => { each.disabled = true; }));
});
addEventListener("pageshow", (event) => {
  if (event.persisted) document.querySelectorAll("form[method=post] button").forEach((each) => { each.disabled = false; });
});

// What is under way is asked for anew until it is over; the rest of the page stays as it is.
async function stayLive() {
  const live = document.getElementById("live");
  if (!live?.dataset.live) return;
  await new Promise((done) => setTimeout(done, Number(live.dataset.live)));
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    const next = answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    if (next) {
      tellTimes(next);
      tellLanguages(next);
      if (next.innerHTML !== live.innerHTML || !next.dataset.live) live.replaceWith(next);
    }
  } catch { /* the gallery is away for a moment */ }
  stayLive();
}
stayLive();

for (const button of document.querySelectorAll("[data-play-both]")) {
  const videos = [...document.querySelectorAll(".pair video")];
  button.hidden = false;
  button.addEventListener("click", () => {
    const play = videos.some((video) => video.paused || video.ended);
    videos.forEach((video, at) => {
      if (play) video.currentTime = videos[0].ended ? 0 : videos[0].currentTime;
      video.muted = at > 0;
      if (play) video.play(); else video.pause();
    });
    button.textContent = play ? "Pause both" : "Play both";
  });
}

const order = document.querySelector("form.order");
if (order) bringFiles(order);

function bringFiles(form) {
  const list = form.querySelector("[data-list]");
  const status = form.querySelector("[data-status]");
  const area = form.querySelector("[data-drop]");
  const chooser = form.querySelector("[data-files]");
  const submit = form.querySelector("button:not([type])");
  let busy = 0;

  // A part is sent again from where the gallery says that it stopped, ten times with growing pauses.
  async function send(file, show) {
    const begun = `upload ${form.dataset.uploads} ${file.name} ${file.size} ${file.lastModified}`;
    const json = { "x-csrf-token": form.dataset.token, "content-type": "application/json" };
    let at = null;
    let id = sessionStorage.getItem(begun);
    for (let tries = 0; tries < 10; ) {
      try {
        if (id && at === null) {
          const found = await fetch(`${form.dataset.uploads}/${id}`, { cache: "no-store" });
          if (found.status === 404) id = null; else at = (await read(found)).offset;
        }
        if (!id) {
          const body = JSON.stringify({ name: file.name, size: file.size });
          id = (await read(await fetch(form.dataset.uploads, { method: "POST", body, headers: json }))).id;
          sessionStorage.setItem(begun, id);
          at = 0;
        }
        const part = file.slice(at, at + 4 * 1024 * 1024);
        const headers = { "x-csrf-token": form.dataset.token, "upload-offset": String(at), "content-type": "application/octet-stream" };
        const told = await read(await fetch(`${form.dataset.uploads}/${id}`, { method: "PATCH", body: part, headers }), [409]);
        if (told.key) return told;
        at = told.offset;
        tries = 0;
        show(at / file.size);
      } catch (error) {
        if (error.final) throw error;
        at = null;
        tries += 1;
        await new Promise((done) => setTimeout(done, 500 * tries));
      }
    }
    throw new Error("the gallery cannot be reached. Choose the file again to go on where it stopped.");
  }

  async function read(answer, taken = []) {
    if (answer.ok || taken.includes(answer.status)) return answer.json();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const told = page.querySelector(".fault p")?.textContent || `${answer.status} ${answer.statusText}`;
    throw Object.assign(new Error(told), { final: answer.status < 500 && answer.status !== 408 && answer.status !== 429 });
  }

  async function bringOne(file) {
    const item = document.createElement("li");
    const kind = Object.assign(document.createElement("span"), { className: "kind", textContent: "…" });
    const name = Object.assign(document.createElement("span"), { className: "filename", textContent: file.name });
    const bar = Object.assign(document.createElement("progress"), { max: 1, value: 0 });
    bar.setAttribute("aria-label", `${file.name} on its way`);
    item.append(kind, name, bar);
    list.append(item);
    try {
      if (file.size > Number(form.dataset.limit)) throw new Error("it is too large.");
      if (!file.size) throw new Error("it is empty.");
      const told = await send(file, (share) => { bar.value = share; });
      for (const same of list.querySelectorAll(`input[value="${told.key}"]`)) same.parentElement.remove();
      for (const [field, value] of [[told.what, told.key], ["name", `${told.key}=${file.name}`]]) {
        item.append(Object.assign(document.createElement("input"), { type: "hidden", name: field, value }));
      }
      kind.textContent = told.what[0].toUpperCase() + told.what.slice(1);
      const remove = Object.assign(document.createElement("button"), { type: "button", className: "quiet small", textContent: "Remove" });
      remove.dataset.remove = "";
      remove.setAttribute("aria-label", `Remove ${file.name}`);
      bar.replaceWith(remove);
    } catch (error) {
      item.remove();
      const line = document.createElement("span");
      line.textContent = `${file.name}: ${error.message} `;
      status.append(line);
    }
  }

  async function bring(files) {
    status.textContent = "";
    busy += 1;
    submit.disabled = true;
    const waiting = [...files].filter((file) => !file.name.startsWith("."));
    await Promise.all([0, 1, 2].map(async () => {
      for (let file; (file = waiting.shift()); ) await bringOne(file);
    }));
    chooser.value = "";
    busy -= 1;
    submit.disabled = busy > 0;
  }

  // Folders are opened; what they hold is taken by name.
  async function inside(entry) {
    if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return (await Promise.all(found.map(inside))).flat();
      found.push(...some);
    }
  }

  list.addEventListener("click", (event) => {
    if (event.target.dataset.remove !== undefined) event.target.closest("li").remove();
  });
  chooser.addEventListener("change", () => bring(chooser.files));
  for (const name of ["dragover", "dragenter"]) {
    area.addEventListener(name, (event) => { event.preventDefault(); area.classList.add("over"); });
  }
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", async (event) => {
    event.preventDefault();
    area.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = [...event.dataTransfer.files];
    bring(entries.some((entry) => entry.isDirectory) ? (await Promise.all(entries.map(inside))).flat() : files);
  });
}
