"use strict";

const byId = (id) => document.getElementById(id);
let model = { coverage: null, shown: "" };
let waiting = 0;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function drawn(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function send(path, file) {
  let response;
  try {
    response = await fetch(`${path}${path.includes("?") ? "&" : "?"}faces=${byId("faces").value}`, { method: "POST", body: file });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    throw new Error(answer.error[0].toUpperCase() + answer.error.slice(1) + ".");
  }
  return response;
}

const inWords = (face) => (face.age === null ? face.reason : `${face.age.toFixed(1)} years`);

function interval(face) {
  if (face.low === null) return "";
  const high = face.high === null ? "any age above" : face.high.toFixed(0);
  return `between ${face.low.toFixed(0)} and ${high}, ${Math.round(model.coverage * 100)}% sure`;
}

function picture(file, answer) {
  const image = element("img", { src: URL.createObjectURL(file), alt: `${file.name}, ${answer.faces.length} faces` });
  const boxes = drawn("svg", { viewBox: `0 0 ${answer.width} ${answer.height}`, "aria-hidden": "true", preserveAspectRatio: "none" });
  const holder = element("div", { className: "picture" }, image, boxes);
  for (const face of answer.faces) {
    if (face.left === null) continue;
    for (const kind of ["", "inner"]) {
      const size = { x: face.left, y: face.top, width: face.right - face.left, height: face.bottom - face.top };
      boxes.append(drawn("rect", { ...size, class: kind, rx: 4 }));
    }
    const tag = element("span", { className: "tag", textContent: (answer.faces.length > 1 ? `${face.face}: ` : "") + (face.age === null ? "?" : face.age.toFixed(0)) });
    tag.setAttribute("aria-hidden", "true");
    tag.style.left = `${(50 * (face.left + face.right)) / answer.width}%`;
    tag.style.top = `${Math.min(94, (100 * face.bottom) / answer.height)}%`;
    holder.append(tag);
  }
  image.onerror = () => holder.replaceWith(element("p", { className: "quiet", textContent: "This browser cannot show the format; the server can read it." }));
  return holder;
}

function distribution(face) {
  const [width, height] = [320, 70];
  const step = width / face.probabilities.length;
  const most = Math.max(...face.probabilities);
  const bars = face.probabilities.map((p, year) =>
    drawn("rect", { x: year * step, y: height - (height - 4) * (p / most), width: step * 0.8, height: (height - 4) * (p / most) }));
  const labels = [0, 20, 40, 60, 80, 100].map((year) =>
    drawn("text", { x: (year + 0.4) * step, y: height + 14, "text-anchor": year ? (year === 100 ? "end" : "middle") : "start" }, String(year)));
  const label = `Probability of each age: most likely ${face.probabilities.indexOf(most)} years`;
  const chart = drawn("svg", { viewBox: `0 0 ${width} ${height + 18}`, class: "bars", role: "img", "aria-label": label },
    ...bars, drawn("line", { x1: 0, y1: height, x2: width, y2: height }), ...labels);
  return element("figure", {}, chart, element("figcaption", { textContent: "Probability of each age in years" }));
}

function faceItem(file, face, count) {
  const name = count > 1 ? `Face ${face.face}: ` : "";
  const item = element("li", {},
    element("span", { className: "age", textContent: name + inWords(face) }), " ",
    element("span", { className: "quiet", textContent: interval(face) }));
  if (face.age === null) return item;
  if (face.probabilities) item.append(distribution(face));
  const button = element("button", { className: "small", type: "button", textContent: "Where the network looks" });
  if (count > 1) button.setAttribute("aria-label", `Where the network looks in face ${face.face}`);
  button.onclick = async () => {
    button.disabled = true;
    try {
      const picture = URL.createObjectURL(await (await send(`api/explain?face=${face.face}`, file)).blob());
      const alt = "The face, and the same in gray: orange says older, blue says younger";
      const caption = `${model.shown}: orange says older, blue says younger`;
      button.replaceWith(element("figure", {}, element("img", { src: picture, alt }), element("figcaption", { textContent: caption })));
      byId("status").textContent = "The map is shown.";
    } catch (error) {
      button.disabled = false;
      byId("status").textContent = error.message;
    }
  };
  item.append(element("div", {}, button));
  return item;
}

async function show(file) {
  const card = element("article", {}, element("h2", { textContent: file.name }), element("p", { className: "quiet", textContent: "Looking for faces …" }));
  byId("photos").prepend(card);
  waiting += 1;
  byId("status").textContent = `${waiting} photos to do …`;
  let said;
  try {
    const answer = await (await send("api/predict", file)).json();
    const list = element("ol", {}, ...answer.faces.map((face) => faceItem(file, face, answer.faces.length)));
    const words = answer.faces.length ? list : element("p", { className: "wrong", textContent: "No face was found in this photo." });
    card.replaceChildren(card.firstChild, element("div", { className: "columns" }, picture(file, answer), words));
    said = `${file.name}: ${answer.faces.length ? answer.faces.map(inWords).join(", ") : "no face found"}.`;
  } catch (error) {
    said = `${file.name}: ${error.message}`;
    card.replaceChildren(card.firstChild, element("p", { className: "wrong", textContent: error.message }));
  }
  waiting -= 1;
  byId("status").textContent = waiting ? `${waiting} photos to do …` : said;
}

async function showAll(files) {
  for (const file of files) await show(file);
}

byId("files").onchange = (event) => { showAll([...event.target.files]); };
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  showAll([...event.dataTransfer.files]);
});
fetch("api/model").then((response) => response.json()).then((answer) => {
  model = answer;
  const sure = model.coverage === null ? "" : `; intervals hold the age in ${Math.round(model.coverage * 100)} of 100 cases, for faces like those it learned from`;
  byId("model").textContent = `${model.network}, trained by jaxage${sure}.`;
});
