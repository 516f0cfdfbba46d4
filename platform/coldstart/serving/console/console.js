// Draws the console. It uses no library, no browser storage and no other host.

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const LIVE_MS = 2000, SHOWN_USERS = 6, BINS = 24;
let token = "", image = null, limit = Infinity, paused = false, asking = null;

class RequestError extends Error {}

function node(tag, attributes = {}, ...inside) {
  const svg = ["svg", "rect", "line", "circle"].includes(tag);
  const created = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.append(...inside);
  return created;
}

// ---- requests to the server ----

async function call(path, { method = "GET", body, quiet = false } = {}) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (token) headers.authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store",
      credentials: "omit", redirect: "error" });
  } catch {
    throw new RequestError("The server does not answer.");
  }
  if (response.status === 401 && !quiet) {
    await askForToken(Boolean(token));
    return call(path, { method, body });
  }
  let parsed = null;
  try { parsed = await response.json(); } catch { /* a proxy in between may answer without JSON */ }
  if (!response.ok) throw new RequestError(parsed?.error?.message ?? `The server answers ${response.status}.`);
  return parsed;
}

function askForToken(wrong) {
  // Several calls may need a token at the same time; one dialog serves all of them.
  asking ??= new Promise((resolve) => {
    $("ask-title").textContent = wrong ? "That token is not accepted" : "This server requires a token";
    $("token").value = "";
    $("ask").addEventListener("close", () => { token = $("token").value.trim(); $("token").value = ""; asking = null; resolve(); },
      { once: true });
    $("ask").showModal();
    $("token").focus();
  });
  return asking;
}

const showError = (message) => { $("error").textContent = message; $("error").hidden = !message; };
const announce = (message) => { $("status").textContent = message; };

// ---- the new item ----

async function choose(file) {
  if (!file) return;
  if (file.size > limit) {
    showError(`That image has ${file.size.toLocaleString()} bytes; at most ${limit.toLocaleString()} are allowed.`);
    return;
  }
  showError("");
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  show(url);
  announce(`Image ${file.name} chosen.`);
}

function show(url) {
  image = url ? url.slice(url.indexOf(",") + 1) : null;
  $("chosen-image").hidden = $("remove").hidden = !url;
  $("hint").hidden = Boolean(url);
  if (url) $("chosen-image").src = url; else { $("chosen-image").removeAttribute("src"); $("image").value = ""; }
}

function content() {
  const item = {};
  if ($("title").value.trim()) item.title = $("title").value.trim();
  if ($("text").value.trim()) item.text = $("text").value.trim();
  if (image) item.image = image;
  return Object.keys(item).length ? item : null;
}

async function busy(button, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  showError("");
  try { await work(); } catch (error) {
    if (!(error instanceof RequestError)) console.error(error);
    showError(error instanceof RequestError ? error.message : "Something went wrong on this page.");
  } finally { button.removeAttribute("aria-busy"); }
}

function missing() {
  showError("Enter an image, a title or a text first.");
  $("title").focus();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const item = content();
  if (!item) { missing(); return; }
  busy($("preview"), async () => {
    announce("Computing the preview.");
    const preview = await call("/v1/console/preview", { method: "POST", body: item });
    drawNeighbors(preview);
    drawCodes(preview);
    drawRates(preview);
    const first = preview.neighbors[0];
    announce(`Done. ${first ? `The nearest item is ${first.title || first.item_id}.` : ""} ${$("summary").textContent}`);
  });
});

$("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  const item = content(), id = $("item-id").value.trim();
  if (!item) { missing(); return; }
  if (!id) { showError("Enter an item id first."); $("item-id").focus(); return; }
  busy(event.submitter ?? $("item-id"), async () => {
    const done = await call("/v1/items", { method: "POST", body: { item_id: id, ...item } });
    $("publish-note").textContent = `${done.item_id ?? id} is published and rankable now.`;
    announce($("publish-note").textContent);
  });
});

$("example").addEventListener("click", () => busy($("example"), async () => {
  const item = await call("/v1/console/example");
  $("title").value = item.title ?? "";
  $("text").value = item.text ?? "";
  show(item.image);
  announce(`Filled in ${item.title ?? item.item_id}, an item without train events.`);
}));

$("image").addEventListener("change", (event) => choose(event.target.files[0]));
$("remove").addEventListener("click", () => { show(null); announce("Image removed."); $("image").focus(); });
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
}
document.addEventListener("drop", (event) => choose(event.dataTransfer.files[0]));
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) choose(file);
});

// ---- results ----

function drawNeighbors({ neighbors, no_images_reason }) {
  $("near-empty").hidden = neighbors.length > 0;
  $("near-empty").textContent = "This release has no mature items to compare with.";
  $("near-note").textContent = "Items with a well-trained ID row, by the cosine of that row and the proxy."
    + (no_images_reason ? ` ${no_images_reason}` : "");
  $("shelf").replaceChildren(...neighbors.map((item) => {
    const bar = node("i", { "aria-hidden": "true" });
    bar.style.setProperty("--share", `${Math.max(0, 100 * item.cosine)}%`);
    return card(item,
      node("p", { class: "cosine" }, bar, node("span", { class: "visually-hidden" }, "cosine "), item.cosine.toFixed(2)));
  }));
}

function card({ item_id, title, image: shown }, ...below) {
  const name = title || item_id;
  const frame = node("div", { class: "frame" }, shown ? node("img", { src: shown, alt: "" }) : "no image");
  return node("li", {}, frame, node("p", { class: "name", title: name }, name), ...below);
}

function drawCodes({ code_path }) {
  $("codes").hidden = code_path.length === 0;
  $("code-path").replaceChildren(...code_path.map(({ codes, items, nearest }) => node("li", {},
    node("p", { class: "codes" }, node("b", {}, codes.join(" \u00b7 ")), ` shared by ${items.toLocaleString()} ${items === 1 ? "item" : "items"}`),
    node("ol", { class: "shelf" }, ...nearest.map((item) => card(item))))));
}

function drawRates({ users, histories }) {
  $("ctr-empty").hidden = true;
  $("rates").hidden = false;
  const mean = (kind) => users.reduce((sum, user) => sum + user[kind], 0) / users.length;
  const higher = users.filter((user) => user.proxy > user.oov).length;
  $("summary").replaceChildren(node("b", {}, percent(mean("proxy"))), " with the proxy, ",
    node("b", {}, percent(mean("oov"))), ` as an unknown item; the proxy's is higher for ${higher} of ${users.length} users.`);
  $("users-count").textContent = histories === "dataset"
    ? `${users.length} users of the dataset, after their last event` : `${users.length} random histories, because the server has no dataset`;
  drawHistogram(users);
  drawUsers(users);
}

// The range of all rates, rounded outward to steps of 5 %.
function range(users) {
  const rates = users.flatMap((user) => [user.proxy, user.oov]);
  const low = Math.floor(Math.min(...rates) * 20) / 20, high = Math.ceil(Math.max(...rates) * 20) / 20;
  return [low, Math.max(high, low + 0.05)];
}

// Two histograms back to back: rates with the proxy above the line, with the OOV row below it.
function drawHistogram(users) {
  const [low, high] = range(users), width = 640 / BINS;
  const counts = { proxy: Array(BINS).fill(0), oov: Array(BINS).fill(0) };
  for (const user of users) {
    for (const kind of ["proxy", "oov"]) counts[kind][Math.min(BINS - 1, Math.floor(((user[kind] - low) / (high - low)) * BINS))] += 1;
  }
  const tallest = Math.max(...counts.proxy, ...counts.oov);
  const bars = ["proxy", "oov"].flatMap((kind) => counts[kind].map((count, bin) => {
    const height = (76 * count) / tallest;
    return node("rect", { class: `bin-${kind}`, x: bin * width + 1.5, width: width - 3, rx: 1.5, height, y: kind === "proxy" ? 79 - height : 81 });
  }));
  $("histogram").replaceChildren(...bars, node("line", { class: "middle", x1: 0, x2: 640, y1: 80, y2: 80 }));
  $("axis").replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((share) => node("span", {}, percent(low + share * (high - low)))));
}

function drawUsers(users) {
  const order = [...users].sort((a, b) => b.proxy - b.oov - (a.proxy - a.oov));
  const step = Math.max(1, (order.length - 1) / (SHOWN_USERS - 1));
  const shown = order.length <= SHOWN_USERS ? order : Array.from({ length: SHOWN_USERS }, (_, i) => order[Math.round(i * step)]);
  const [low, high] = range(users);
  $("users-title").textContent = `${shown.length} users, from the largest gain by the proxy to the smallest`;
  $("users").replaceChildren(...shown.map(({ user_id, recent_clicks, oov, proxy }) => {
    const x = (rate) => `${(100 * (rate - low)) / (high - low)}%`;
    const chart = node("svg", { "aria-hidden": "true" },
      node("line", { x1: x(oov), x2: x(proxy), y1: "50%", y2: "50%" }),
      node("circle", { class: "o", cx: x(oov), cy: "50%", r: 5 }), node("circle", { class: "p", cx: x(proxy), cy: "50%", r: 6 }));
    return node("tr", {}, node("td", { class: "who" }, recent_clicks.length ? recent_clicks.join(", ") : user_id),
      node("td", { class: "number" }, percent(oov)), node("td", { class: "number" }, percent(proxy)),
      node("td", { class: "span" }, chart));
  }));
}

// ---- state of the server ----

function tile(name, value, unit = "") {
  return node("div", {}, node("dt", {}, name), node("dd", {}, value, unit ? node("small", {}, ` ${unit}`) : ""));
}

function drawStatus({ release, deployments, example, max_image_bytes, stats }) {
  limit = max_image_bytes;
  $("release").hidden = false;
  $("release").replaceChildren(node("b", {}, release.release), release.alias ? ` ${release.alias}` : "");
  $("example").hidden = !example;
  const variants = [["", stats.champion], ["challenger ", stats.challenger]].filter(([, variant]) => variant);
  $("tiles").replaceChildren(...variants.flatMap(([variant, { requests }]) => [
    tile(`${variant}requests a second`, requests.per_s.toFixed(1)),
    tile(`${variant}median latency`, ...milliseconds(requests.p50_ms)),
    tile(`${variant}99th percentile`, ...milliseconds(requests.p99_ms)),
  ]), tile("items without ID found by proxy", ...proxyHits(stats.champion.lookups)),
  tile("newest proxy", ...(stats.newest_proxy_age_s == null ? ["-", "none published"] : age(stats.newest_proxy_age_s))),
  tile("stored to rankable, 99th", ...milliseconds(stats.proxy_propagation.p99_ms, "none in the last minute")),
  ...(release.challenger ? [tile("challenger", release.challenger.release, challengerNote(release.challenger))] : []));
  $("models").replaceChildren(...Object.entries(STAGE_OF).map(([model, stage]) => {
    const { p50_ms, p99_ms } = stats.stages[stage] ?? { p50_ms: null, p99_ms: null };
    const shown = [p50_ms, p99_ms].map((value) => milliseconds(value, "").join(" "));
    const { now, peak } = stats.queues[model], { mean } = stats.batches[model];
    return node("tr", {}, node("td", {}, model),
      ...[...shown, mean == null ? "-" : mean.toFixed(1), now, peak].map((one) => node("td", { class: "number" }, String(one))));
  }));
  $("deployments").replaceChildren(...deployments.map(({ name, state, running, starting }) => {
    const good = state === "healthy" ? " good" : state === "unhealthy" ? " bad" : "";
    return node("tr", {}, node("td", {}, name), node("td", {}, node("span", { class: `state${good}` }, state)),
      node("td", { class: "number" }, String(running)), node("td", { class: "number" }, String(starting)));
  }));
}

const STAGE_OF = { encoder: "encode", adaptor: "adapt", scorer: "rank" };
const milliseconds = (value, none = "no requests") => (value == null ? ["-", none] : [value.toFixed(value < 10 ? 1 : 0), "ms"]);
const age = (seconds) => {
  const [, unit, length] = [[86400, "days", 86400], [3600, "h", 3600], [60, "min", 60], [0, "s", 1]].find(([least]) => seconds >= least);
  return [(seconds / length).toFixed(0), `${unit} old`];
};
const proxyHits = ({ per_s, shares: { proxy, oov } }) =>
  (per_s && proxy + oov ? [percent(proxy / (proxy + oov)), "of those without a trained ID"] : ["-", "no requests"]);
const challengerNote = ({ state, traffic_fraction }) => (state === "answering" ? `serves ${percent(traffic_fraction)} of users` : state);

async function live(quiet) {
  if (paused || document.hidden) return;
  const dot = document.querySelector(".mark .dot");
  try {
    drawStatus(await call("/v1/console", { quiet }));
    dot.className = "dot up";
  } catch (error) {
    if (!(error instanceof RequestError)) console.error(error);
    dot.className = "dot down";
  }
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
});

await live(false);
setInterval(() => live(true), LIVE_MS);
