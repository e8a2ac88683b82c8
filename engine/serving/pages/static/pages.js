// Columns that generate through the public API, uploads, the keys of raters, copied links. No state: the address and the table hold it.
"use strict";

const element = (name, attributes, ...children) => {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
};

const usd = (value) => (value === 0 ? "$0" : value < 0.01 ? "$" + value.toExponential(2) : "$" + value.toFixed(2));
const duration = (value) => (value < 1 ? Math.round(value * 1000) + " ms" : value.toFixed(1) + " s");

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return "the server answered with status " + response.status;
  }
}

// EventSource would connect again after an error and generate a second time
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value.replaceAll("\r\n", "\n");
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = [];
      let name = "message";
      for (const line of part.split("\n")) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      }
      if (data.length && data[0] !== "[DONE]") {
        const content = JSON.parse(data.join("\n"));
        yield { name: content.type || name, content };
      }
    }
  }
}

class Column {
  constructor(root) {
    this.root = root;
    this.part = (name) => root.querySelector("." + name);
    this.part("again").addEventListener("click", () => this.run());
  }

  say(text, isProblem = false) {
    const status = this.part("status");
    status.textContent = text;
    status.classList.toggle("problem", isProblem);
  }

  show(content, alt, isPreview) {
    const kind = content.output_format || "png";
    const image = element("img", { src: `data:image/${kind};base64,${content.b64_json}`, alt });
    image.classList.toggle("preview", isPreview);
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 64));
    this.part("frame").replaceChildren(image);
  }

  async run() {
    this.root.setAttribute("aria-busy", "true");
    this.part("again").hidden = true;
    this.part("references").replaceChildren();
    this.part("facts").replaceChildren();
    this.say("Asking …");
    const started = performance.now();
    try {
      const response = await fetch("/v1/images/generations", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: this.root.dataset.request,
      });
      if (!response.ok) throw new Error(await problemOf(response));
      let isDone = false;
      for await (const { name, content } of eventsOf(response)) {
        isDone = this.take(name, content, started) || isDone;
      }
      if (!isDone) throw new Error("the connection was closed before the image was ready");
    } catch (error) {
      this.say(error.message, true);
      this.part("again").hidden = false;
    } finally {
      this.root.removeAttribute("aria-busy");
    }
  }

  take(name, content, started) {
    if (name === "imagefoundry.queued") {
      const wait = content.eta_seconds ? `, about ${duration(content.eta_seconds)}` : "";
      this.say(content.position ? `Place ${content.position + 1} in the queue${wait}` : `Next in the queue${wait}`);
    } else if (name === "imagefoundry.started") {
      this.say("Generating …");
    } else if (name.endsWith(".partial_image")) {
      this.say(`Generating, preview ${content.partial_image_index + 1}`);
      this.show(content, "Preview", true);
    } else if (name.endsWith(".completed")) {
      this.finish(content, (performance.now() - started) / 1000);
      return true;
    } else if (content.error) {
      throw new Error(content.error.message);
    }
    return false;
  }

  finish(content, seconds) {
    const title = this.root.querySelector("h2").textContent;
    this.show(content, `The image: ${title}`, false);
    this.say("");
    const facts = this.part("facts");
    const cost = content.usd === 0 ? "$0, from the table" : usd(content.usd ?? 0);
    facts.append(element("b", {}, cost), ` · ${duration(content.device_seconds ?? 0)} on the device · ${duration(seconds)} in all`);
    if (content.image_id) facts.append(" · ", element("a", { href: "/gallery/" + encodeURIComponent(content.image_id) }, "its row"));
    const references = (content.references || []).map((one) => (typeof one === "string" ? one : one.id));
    if (references.length) this.part("references").append(element("span", { className: "muted" }, references.length > 1 ? "References" : "Reference"));
    for (const [number, id] of references.entries()) {
      const path = encodeURIComponent(id);
      const picture = element("img", { src: `/v1/images/${path}/content?width=160`, alt: `Reference ${number + 1} of ${title}` });
      picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth <= 64));
      this.part("references").append(element("a", { href: "/gallery/" + path }, picture));
    }
  }
}

function startColumns() {
  for (const group of document.querySelectorAll(".columns")) {
    for (const root of group.querySelectorAll("[data-request]")) {
      const column = new Column(root);
      if (group.dataset.start === "yes") column.run();
    }
  }
}

function offerSeeds() {
  for (const button of document.querySelectorAll("[data-new-seed]")) {
    button.addEventListener("click", () => {
      const field = document.getElementById("seed");
      field.value = crypto.getRandomValues(new Uint32Array(1))[0];
      if (document.getElementById("prompt").value) field.form.requestSubmit();
    });
  }
}

function sendPhotographs() {
  const form = document.getElementById("add");
  form?.addEventListener("submit", async (event) => {
    const files = document.getElementById("photographs").files;
    if (!files.length) return; // nothing new: generate again
    event.preventDefault();
    const status = document.getElementById("added");
    const say = (text, isProblem) => {
      status.textContent = text;
      status.classList.toggle("problem", isProblem);
    };
    if (files.length > Number(form.dataset.most)) return say(`${files.length} photographs are too many; choose ${form.dataset.most} at most`, true);
    const body = new FormData();
    body.append("name", form.elements.name.value.trim());
    for (const file of files) body.append("image", file);
    const button = form.querySelector(".go");
    button.disabled = true;
    say(`Adding ${files.length} photograph${files.length > 1 ? "s" : ""} …`, false);
    try {
      const response = await fetch("/v1/images", { method: "POST", body });
      if (!response.ok) throw new Error(await problemOf(response));
      const given = new URLSearchParams(new FormData(form));
      location.assign("/add?" + given);
    } catch (error) {
      say(error.message, true);
      button.disabled = false;
    }
  });
}

function listenForRatings() {
  const form = document.querySelector("[data-rate]");
  if (!form) return;
  const groups = [...form.querySelectorAll("fieldset")];
  const isOpen = (group) => !group.querySelector("input:checked");
  const next = () => (groups.find(isOpen)?.querySelector("input") || form.querySelector("button")).focus();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target === document.body) return form.requestSubmit();
    if (!/^[0-9]$/.test(event.key)) return;
    const group = event.target.closest?.("fieldset") || groups.find(isOpen) || groups[0];
    const input = group.querySelector(`input[value="${event.key}"]`);
    if (!input) return;
    input.checked = true;
    event.preventDefault();
    next();
  });
  next();
}

function copyLinks() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(location.origin + button.dataset.copy);
      button.textContent = "Copied";
    });
  }
}

startColumns();
offerSeeds();
sendPhotographs();
listenForRatings();
copyLinks();
