// The console: what the server answers, drawn. No library, no storage, no other host.

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const LIVE_MS = 2000, SHOWN_USERS = 6, BINS = 24;
let token = "", picture = null, limit = Infinity, paused = false, asking = null;

class Failed extends Error {}

function node(tag, attributes = {}, ...inside) {
  const svg = ["svg", "rect", "line", "circle"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

// ---- talking to the server ----

async function call(path, { method = "GET", body, quiet = false } = {}) {
  const headers = body ? { "content-type": "application/json" } : {};
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store",
      credentials: "omit", redirect: "error" });
  } catch {
    throw new Failed("The server does not answer.");
  }
  if (answer.status === 401 && !quiet) {
    await askForToken(Boolean(token));
    return call(path, { method, body });
  }
  let told = null;
  try { told = await answer.json(); } catch { /* something in between answered in its own words */ }
  if (!answer.ok) throw new Failed(told?.error?.message ?? `The server answers ${answer.status}.`);
  return told;
}

function askForToken(wrong) {
  // Several calls may meet the same closed door; one dialog serves them all.
  asking ??= new Promise((given) => {
    $("ask-title").textContent = wrong ? "That token is not accepted" : "This server asks for a token";
    $("token").value = "";
    $("ask").addEventListener("close", () => { token = $("token").value.trim(); $("token").value = ""; asking = null; given(); },
      { once: true });
    $("ask").showModal();
    $("token").focus();
  });
  return asking;
}

const trouble = (message) => { $("trouble").textContent = message; $("trouble").hidden = !message; };
const say = (message) => { $("said").textContent = message; };

// ---- the new item ----

async function choose(file) {
  if (!file) return;
  if (file.size > limit) {
    trouble(`That picture has ${file.size.toLocaleString()} bytes; at most ${limit.toLocaleString()} are allowed.`);
    return;
  }
  trouble("");
  const url = await new Promise((read, failed) => {
    const reader = new FileReader();
    reader.onload = () => read(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
  show(url);
  say(`Picture ${file.name} chosen.`);
}

function show(url) {
  picture = url ? url.slice(url.indexOf(",") + 1) : null;
  $("preview").hidden = $("remove").hidden = !url;
  $("hint").hidden = Boolean(url);
  if (url) $("preview").src = url; else { $("preview").removeAttribute("src"); $("picture").value = ""; }
}

function content() {
  const given = {};
  if ($("title").value.trim()) given.title = $("title").value.trim();
  if ($("text").value.trim()) given.text = $("text").value.trim();
  if (picture) given.picture = picture;
  return Object.keys(given).length ? given : null;
}

async function busy(button, work) {
  if (button.getAttribute("aria-busy") === "true") return;
  button.setAttribute("aria-busy", "true");
  trouble("");
  try { await work(); } catch (error) {
    if (!(error instanceof Failed)) console.error(error);
    trouble(error instanceof Failed ? error.message : "Something went wrong on this page.");
  } finally { button.removeAttribute("aria-busy"); }
}

function missing() {
  trouble("Give a picture, a title or a text first.");
  $("title").focus();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = content();
  if (!given) { missing(); return; }
  busy($("look"), async () => {
    say("Reading the item.");
    const seen = await call("/v1/console/look", { method: "POST", body: given });
    drawNeighbours(seen);
    drawRates(seen);
    const first = seen.neighbours[0];
    say(`Done. ${first ? `Nearest is ${first.title || first.item_id}.` : ""} ${$("summary").textContent}`);
  });
});

$("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = content(), id = $("item-id").value.trim();
  if (!given) { missing(); return; }
  if (!id) { trouble("Give the item an id first."); $("item-id").focus(); return; }
  busy(event.submitter ?? $("item-id"), async () => {
    const done = await call("/v1/items", { method: "POST", body: { item_id: id, ...given } });
    $("publish-note").textContent = `${done.item_id ?? id} is published and rankable now.`;
    say($("publish-note").textContent);
  });
});

$("example").addEventListener("click", () => busy($("example"), async () => {
  const item = await call("/v1/console/example");
  $("title").value = item.title ?? "";
  $("text").value = item.text ?? "";
  show(item.picture);
  say(`Filled in ${item.title ?? item.item_id}, an item without a single click in training.`);
}));

$("picture").addEventListener("change", (event) => choose(event.target.files[0]));
$("remove").addEventListener("click", () => { show(null); say("Picture removed."); $("picture").focus(); });
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

// ---- what it found ----

function drawNeighbours({ neighbours, pictures }) {
  $("near-empty").hidden = neighbours.length > 0;
  $("near-empty").textContent = "This release has no mature items to compare with.";
  $("near-note").textContent = "Items with a well-trained ID, by the cosine of that ID to what the model wrote."
    + (pictures ? ` ${pictures}` : "");
  $("shelf").replaceChildren(...neighbours.map(({ item_id, title, cosine, picture: shown }) => {
    const name = title || item_id;
    const frame = node("div", { class: "frame" }, shown ? node("img", { src: shown, alt: "" }) : "no picture");
    const bar = node("i", { "aria-hidden": "true" });
    bar.style.setProperty("--share", `${Math.max(0, 100 * cosine)}%`);
    return node("li", {}, frame, node("p", { class: "name", title: name }, name),
      node("p", { class: "like" }, bar, node("span", { class: "visually-hidden" }, "cosine "), cosine.toFixed(2)));
  }));
}

function drawRates({ users, histories }) {
  $("ctr-empty").hidden = true;
  $("rates").hidden = false;
  const mean = (kind) => users.reduce((sum, user) => sum + user[kind], 0) / users.length;
  const higher = users.filter((user) => user.proxy > user.oov).length;
  $("summary").replaceChildren(node("b", {}, percent(mean("proxy"))), " with the proxy, ",
    node("b", {}, percent(mean("oov"))), ` as an unknown item; higher for ${higher} of ${users.length} users.`);
  $("users-count").textContent = histories === "dataset"
    ? `${users.length} users of the dataset, after their last event` : `${users.length} made-up histories: no dataset is at hand`;
  drawHistogram(users);
  drawUsers(users);
}

// The range of all rates, to whole steps of 5 %.
function range(users) {
  const rates = users.flatMap((user) => [user.proxy, user.oov]);
  const low = Math.floor(Math.min(...rates) * 20) / 20, high = Math.ceil(Math.max(...rates) * 20) / 20;
  return [low, Math.max(high, low + 0.05)];
}

// Back to back, so that neither hides the other: the proxy's users above the line, those of OOV below it.
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
  $("users-title").textContent = `${shown.length} of them, from the one it suits best to the one it suits least`;
  $("users").replaceChildren(...shown.map(({ user_id, liked, oov, proxy }) => {
    const x = (rate) => `${(100 * (rate - low)) / (high - low)}%`;
    const chart = node("svg", { "aria-hidden": "true" },
      node("line", { x1: x(oov), x2: x(proxy), y1: "50%", y2: "50%" }),
      node("circle", { class: "o", cx: x(oov), cy: "50%", r: 5 }), node("circle", { class: "p", cx: x(proxy), cy: "50%", r: 6 }));
    return node("tr", {}, node("td", { class: "who" }, liked.length ? liked.join(", ") : user_id),
      node("td", { class: "number" }, percent(oov)), node("td", { class: "number" }, percent(proxy)),
      node("td", { class: "span" }, chart));
  }));
}

// ---- what answers ----

function tile(name, value, unit = "") {
  return node("div", {}, node("dt", {}, name), node("dd", {}, value, unit ? node("small", {}, ` ${unit}`) : ""));
}

function drawStatus({ release, deployments, example, max_picture_bytes, watch }) {
  limit = max_picture_bytes;
  $("release").hidden = false;
  $("release").replaceChildren(node("b", {}, release.release), release.alias ? ` ${release.alias}` : "");
  $("example").hidden = !example;
  const arms = [["", watch.champion], ["challenger ", watch.challenger]].filter(([, arm]) => arm);
  $("tiles").replaceChildren(...arms.flatMap(([arm, { requests }]) => [
    tile(`${arm}requests a second`, requests.per_s.toFixed(1)),
    tile(`${arm}median latency`, ...milliseconds(requests.p50_ms)),
    tile(`${arm}99th percentile`, ...milliseconds(requests.p99_ms)),
  ]), tile("unknown items found by proxy", ...proxyHits(watch.champion.lookups)),
  tile("newest item", ...(watch.newest_item_s == null ? ["-", "none published"] : age(watch.newest_item_s))),
  tile("stored to rankable, 99th", ...milliseconds(watch.taken_in.p99_ms, "none lately")),
  ...(release.challenger ? [tile("challenger", release.challenger.release, challengerNote(release.challenger))] : []));
  $("models").replaceChildren(...Object.entries(STAGE_OF).map(([model, stage]) => {
    const { p50_ms, p99_ms } = watch.stages[stage] ?? { p50_ms: null, p99_ms: null };
    const shown = [p50_ms, p99_ms].map((value) => milliseconds(value, "").join(" "));
    const { now, peak } = watch.queues[model], { mean } = watch.batches[model];
    return node("tr", {}, node("td", {}, model),
      ...[...shown, mean == null ? "-" : mean.toFixed(1), now, peak].map((one) => node("td", { class: "number" }, String(one))));
  }));
  $("deployments").replaceChildren(...deployments.map(({ name, state, running, starting }) => {
    const good = state === "healthy" ? " good" : state === "unhealthy" ? " bad" : "";
    return node("tr", {}, node("td", {}, name), node("td", {}, node("span", { class: `state${good}` }, state)),
      node("td", { class: "number" }, String(running)), node("td", { class: "number" }, String(starting)));
  }));
}

const STAGE_OF = { encoder: "encode", adaptor: "adapt", ranker: "rank" };
const milliseconds = (value, none = "no requests") => (value == null ? ["-", none] : [value.toFixed(value < 10 ? 1 : 0), "ms"]);
const age = (seconds) => {
  const [, unit, length] = [[86400, "days", 86400], [3600, "h", 3600], [60, "min", 60], [0, "s", 1]].find(([least]) => seconds >= least);
  return [(seconds / length).toFixed(0), `${unit} old`];
};
const proxyHits = ({ per_s, shares: { proxy, neither } }) =>
  (per_s && proxy + neither ? [percent(proxy / (proxy + neither)), "of those without a trained ID"] : ["-", "none asked for"]);
const challengerNote = ({ state, share }) => (state === "answering" ? `answers ${percent(share)} of users` : state);

async function live(quiet) {
  if (paused || document.hidden) return;
  const dot = document.querySelector(".mark .dot");
  try {
    drawStatus(await call("/v1/console", { quiet }));
    dot.className = "dot up";
  } catch (error) {
    if (!(error instanceof Failed)) console.error(error);
    dot.className = "dot down";
  }
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
});

await live(false);
setInterval(() => live(true), LIVE_MS);
