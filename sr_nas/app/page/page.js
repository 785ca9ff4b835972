// The server knows all photos of this session; the page shows what it says. Names of files enter as text, never as HTML.
const $ = id => document.getElementById(id);
const session = localStorage.session ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
const rows = new Map(); // key of a photo -> its list item
let state = {photos: {}}, shown, timer, listed;
const ready = new Promise(resolve => listed = resolve); // once the networks are listed: photos may be chosen before

function alarm(text) {
  $("alarm").textContent = text;
  $("alarm").hidden = !text;
}

async function poll() {
  clearTimeout(timer);
  try {
    state = await (await fetch(`state?session=${session}`)).json();
    if ($("alarm").textContent.startsWith("The app")) alarm("");
    draw_list();
  } catch {
    alarm("The app does not answer: it has been stopped in its terminal, or its terminal says what is wrong.");
  }
  const pending = Object.values(state.photos).some(photo => ["waiting", "running"].includes(photo.state));
  if (pending || !$("alarm").hidden) timer = setTimeout(poll, 400);
}

function draw_list() {
  for (const [key, row] of rows) if (!state.photos[key]) row.remove(), rows.delete(key);
  if (!rows.has(shown)) shown = undefined;
  for (const [key, photo] of Object.entries(state.photos)) {
    if (!rows.has(key)) add_row(key, photo);
    const [row, [height, width], done] = [rows.get(key), photo.size, photo.state === "done"];
    const sizes = `${width}x${height} to ${width * photo.scale}x${height * photo.scale} pixels by ${photo.model}`;
    if (done && !shown) show(key);
    row.className = photo.state + (key === shown ? " shown" : "");
    row.querySelector("small").textContent = done ? `${sizes}; ${photo.message}` : photo.message || photo.state;
    row.querySelector("progress").hidden = photo.state !== "running";
    if (photo.share) row.querySelector("progress").value = photo.share;
    for (const part of row.querySelectorAll(".compare, .download")) part.hidden = !done;
  }
  const [all, done] = [rows.size, document.querySelectorAll("li.done").length];
  $("summary").hidden = all < 2;
  $("count").textContent = `${done} of ${all} done`;
  $("zip").hidden = !done;
  $("viewer").hidden = !shown;
}

function add_row(key, photo) {
  const row = $("row").content.cloneNode(true).querySelector("li");
  row.querySelector("b").textContent = photo.name;
  row.querySelector(".download").href = `photos/${key}/result`;
  row.querySelector(".compare").onclick = () => { show(key); draw_list(); $("viewer").scrollIntoView(); };
  row.querySelector(".remove").onclick = () => remove([key]);
  rows.set(key, row);
  $("list").append(row);
}

async function remove(keys) {
  for (const key of keys) await fetch(`photos/${key}`, {method: "DELETE"}).catch(() => {});
  poll();
}

async function send(files) {
  const chosen = [...files]; // a list of dropped files is empty later
  await ready;
  if (!state.models.length) return;
  for (const file of chosen) {
    const query = new URLSearchParams({session, name: file.name, model: $("model").value});
    await fetch(`photos?${query}`, {method: "PUT", body: file}).catch(() => alarm(`${file.name} could not be sent. Of a folder, drop the photos in it.`));
    poll();
  }
}

function show(key) {
  const photo = state.photos[shown = key];
  $("shown").textContent = photo.name;
  $("overview").src = `photos/${key}/overview`;
  $("where").hidden = Math.max(...photo.size) * photo.scale <= state.window;
  look(0.5, 0.5);
}

function look(x, y) {
  for (const side of ["before", "after"]) $(side).src = `photos/${shown}/${side}?x=${x}&y=${y}`;
}

function draw() { // at 100 % a pixel of the picture is a pixel of the screen
  for (const image of [$("before"), $("after")]) {
    image.style.width = `${image.naturalWidth * $("zoom").value / devicePixelRatio}px`;
    image.style.imageRendering = $("zoom").value > 1 ? "pixelated" : "auto";
  }
  const view = $("scroll"), share = $("slider").value / 100;
  $("divider").style.left = `${100 * share}%`;
  $("after").style.clipPath = `inset(0 0 0 ${view.scrollLeft + share * view.clientWidth}px)`;
}

$("before").onload = $("after").onload = $("slider").oninput = $("scroll").onscroll = window.onresize = draw;
(function watch() { // on another screen, or with the browser's zoom, this ratio is another, with or without a resize
  draw();
  matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener("change", watch, { once: true });
})();
$("after").onerror = () => alarm("This photo cannot be shown: its terminal says why. It can be downloaded.");
$("zoom").onchange = () => { // what is in the middle stays there
  const view = $("scroll"), x = (view.scrollLeft + view.clientWidth / 2) / view.scrollWidth, y = (view.scrollTop + view.clientHeight / 2) / view.scrollHeight;
  draw();
  view.scrollTo(x * view.scrollWidth - view.clientWidth / 2, y * view.scrollHeight - view.clientHeight / 2);
};
$("overview").onclick = event => look(event.offsetX / $("overview").width, event.offsetY / $("overview").height);
$("divider").onpointerdown = event => $("divider").setPointerCapture(event.pointerId);
$("frame").onpointermove = event => {
  if ($("divider").hasPointerCapture(event.pointerId)) {
    const box = $("scroll").getBoundingClientRect();
    $("slider").value = 100 * (event.clientX - box.left) / box.width;
    draw();
  } else if (event.buttons && event.pointerType === "mouse") $("scroll").scrollBy(-event.movementX, -event.movementY);
};
$("stage").ondragstart = event => event.preventDefault();
$("files").onchange = async () => { await send($("files").files); $("files").value = ""; };
document.ondragover = event => { event.preventDefault(); $("drop").classList.add("over"); };
document.ondragleave = () => $("drop").classList.remove("over");
document.ondrop = event => { event.preventDefault(); $("drop").classList.remove("over"); send(event.dataTransfer.files); };
$("clear").onclick = () => remove([...rows.keys()]);

function open_tab() {
  const run = state.run && (location.hash === "#run" || !state.models.length);
  $("photos").hidden = run;
  $("run").hidden = !run;
  scrollTo(0, 0);
  for (const link of $("tabs").children) link.classList.toggle("here", (link.hash === "#run") === run);
  if (run) document.querySelector("iframe").src = "report"; // anew at each visit, of a run that goes on
}

await poll();
for (const name of state.models) $("model").add(new Option(name));
listed();
$("files").accept = state.suffixes;
$("limits").textContent = `${state.suffixes.join(" ").replaceAll(".", "")}; up to ${state.megabytes} MB and ${state.megapixels} megapixels. Nothing leaves the machine that runs sr-nas.`;
$("tabs").hidden = !state.run;
$("remark").textContent = state.remark;
$("zip").href = `upscaled.zip?session=${session}`;
window.onhashchange = open_tab;
open_tab();
