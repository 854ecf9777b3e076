// Looking works without this file: times are then in UTC, and links are copied from the address bar.
"use strict";

for (const time of document.querySelectorAll("time[data-local]")) {
  const at = new Date(time.dateTime);
  time.title = time.textContent;
  time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

for (const button of document.querySelectorAll("[data-copy-link]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  });
}

// A button that was pressed stays pressed until the page is left.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => setTimeout(() => form.querySelectorAll("button").forEach((each) => { each.disabled = true; })));
}

const order = document.querySelector("form.order");
if (order) bringFiles(order);

function bringFiles(form) {
  const list = form.querySelector("[data-list]");
  const status = form.querySelector("[data-status]");
  const area = form.querySelector("[data-drop]");
  const chooser = form.querySelector("[data-files]");

  async function bring(files) {
    for (const file of files) {
      status.textContent = `Bringing ${file.name} …`;
      if (file.size > Number(form.dataset.limit)) {
        status.textContent = `${file.name} is too large.`;
        return;
      }
      try {
        const answer = await fetch("files", { method: "POST", body: file, headers: { "x-csrf-token": form.dataset.token, "content-type": "application/octet-stream" } });
        if (!answer.ok) throw new Error((await answer.text()).replace(/<[^>]*>/g, " ").replace(/\s+/g, " ").slice(-300));
        add(await answer.json(), file.name);
      } catch (error) {
        status.textContent = `${file.name}: ${error.message}`;
        return;
      }
    }
    status.textContent = "";
    chooser.value = "";
  }

  function add(brought, name) {
    if (brought.what === "portrait") list.querySelectorAll("input[name=portrait]").forEach((input) => input.parentElement.remove());
    const item = document.createElement("li");
    for (const [field, value] of [[brought.what, brought.key], ["name", `${brought.key}=${name}`]]) {
      const input = document.createElement("input");
      Object.assign(input, { type: "hidden", name: field, value });
      item.append(input);
    }
    const kind = document.createElement("span");
    kind.textContent = brought.what === "portrait" ? "Portrait" : "Voice";
    const remove = document.createElement("button");
    Object.assign(remove, { type: "button", className: "quiet small", textContent: "Remove" });
    remove.dataset.remove = "";
    item.append(kind, ` ${name} `, remove);
    list.append(item);
  }

  list.addEventListener("click", (event) => {
    if (event.target.dataset.remove !== undefined) event.target.parentElement.remove();
  });
  chooser.addEventListener("change", () => bring([...chooser.files]));
  for (const name of ["dragover", "drop"]) area.addEventListener(name, (event) => event.preventDefault());
  area.addEventListener("drop", (event) => bring([...event.dataTransfer.files]));
}
