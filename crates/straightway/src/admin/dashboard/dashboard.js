// The page of the admin listener: numbers from the feed, forms that speak to the API. Nothing is loaded from elsewhere.
import { Feed } from "./feed.js";
import { Members } from "./members.js";

const SECONDS = 120;
const MOST_EVENTS = 200;
const $ = (id) => document.getElementById(id);
const history = { hit_ratio: [], requests: [], served: [], copied: [], latency: [] };
let before = null;
let feed = null;

const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n.toFixed(unit === 0 || n >= 100 ? 0 : 1)} ${units[unit]}`;
};
const micros = (n) => (n >= 1000 ? `${(n / 1000).toFixed(n >= 10_000 ? 0 : 1)} ms` : `${n} µs`);
const number = (n) => n.toLocaleString("en");

function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

function chart(name, value) {
  const values = history[name];
  values.push(value);
  if (values.length > SECONDS) values.shift();
  const svg = document.querySelector(`[data-chart=${name}]`);
  const top = Math.max(...values, name === "hit_ratio" ? 1 : 1e-9);
  const points = values.map((v, n) => `${n + SECONDS - values.length},${(30 - (28 * v) / top).toFixed(1)}`);
  svg.setAttribute("viewBox", `0 0 ${SECONDS - 1} 32`);
  svg.setAttribute("preserveAspectRatio", "none");
  let line = svg.firstElementChild;
  if (!line) {
    line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(line);
  }
  line.setAttribute("points", points.join(" "));
}

function show(now) {
  $("node").textContent = now.node;
  $("uptime").textContent = `up ${duration(now.uptime_ms)}`;
  $("objects").textContent = number(now.objects);
  $("filled").textContent = `${bytes(now.bytes)} of ${bytes(now.capacity)}`;
  const copiedPerServed = now.bytes_served ? now.bytes_copied / now.bytes_served : 0;
  $("copied").textContent = copiedPerServed.toFixed(copiedPerServed < 0.1 ? 4 : 2);
  $("latency").textContent = `${micros(now.latency_p50_us)} · ${micros(now.latency_p99_us)}`;
  // A node that was restarted counts from zero.
  const fresh = before && now.epoch === before.epoch && now.uptime_ms > before.uptime_ms;
  if (fresh) {
    const seconds = (now.uptime_ms - before.uptime_ms) / 1000;
    const rate = (name) => (now[name] - before[name]) / seconds;
    const lookups = now.hits + now.misses - before.hits - before.misses;
    const ratio = lookups > 0 ? (now.hits - before.hits) / lookups : history.hit_ratio.at(-1) ?? 0;
    const served = now.bytes_served - before.bytes_served;
    $("requests").textContent = number(Math.round(rate("requests")));
    $("served").textContent = `${bytes(rate("bytes_served"))}`;
    chart("requests", rate("requests"));
    chart("served", rate("bytes_served"));
    chart("hit_ratio", ratio);
    chart("copied", served > 0 ? (now.bytes_copied - before.bytes_copied) / served : 0);
    chart("latency", now.latency_p99_us);
  }
  const all = now.hits + now.misses;
  $("hit_ratio").textContent = all ? `${((100 * now.hits) / all).toFixed(1)} %` : "–";
  ways([["writev from the mapping", now.writev_bytes], ["sendfile", now.sendfile_bytes], ["pread (copied)", now.pread_bytes]]);
  before = now;
}

function ways(parts) {
  const total = parts.reduce((sum, [, n]) => sum + n, 0);
  $("ways").replaceChildren(...parts.map(([name, n], index) => {
    const part = document.createElement("div");
    part.className = `w${index}`;
    part.style.flexGrow = total ? n / total : 0;
    part.title = name;
    return part;
  }));
  const legend = parts.flatMap(([name, n], index) => {
    const mark = document.createElement("i");
    mark.className = `w${index}`;
    return [mark, `${name} ${bytes(n)}`];
  });
  $("ways-legend").replaceChildren(...legend);
}

function list(event) {
  const wanted = $("filter").value;
  const kind = event.kind;
  if (wanted && kind !== "gap" && !event.key.startsWith(wanted)) return;
  const line = document.createElement("li");
  line.className = kind;
  const cell = (tag, text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    return element;
  };
  const scope = { prefix: `${event.key}*`, tag: `#${event.key}`, all: "everything" }[event.scope];
  const key = kind === "gap" ? `${event.from} to ${event.to} are missing (${event.reason})` : scope ?? event.key;
  const time = new Date(event.timestamp).toLocaleTimeString();
  line.append(cell("span", time), cell("b", kind), cell("code", key));
  if (event.len !== undefined) line.append(cell("span", bytes(event.len)));
  const events = $("events");
  events.prepend(line);
  while (events.childElementCount > MOST_EVENTS) events.lastElementChild.remove();
}

const headers = () => {
  const token = $("token").value;
  return { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
};

async function ask(path, method = "GET", body = undefined) {
  const answer = await fetch(path, { method, headers: headers(), body: body && JSON.stringify(body) });
  const text = await answer.json();
  if (!answer.ok) throw new Error(text.detail ?? answer.statusText);
  return text;
}

async function refresh() {
  try {
    const [stats, regions] = await Promise.all([ask("/api/stats"), ask("/api/regions")]);
    $("pools").tBodies[0].replaceChildren(...Object.entries(stats.pools).map(([name, pool]) => {
      const row = document.createElement("tr");
      for (const text of [name, `${(100 * pool.hit_rate).toFixed(1)} %`, bytes(pool.bytes_held)]) {
        row.insertCell().textContent = text;
      }
      return row;
    }));
    drawMap(regions);
  } catch {
    // The feed's state says that the node is gone.
  }
}

function drawMap({ regions, region_size: size, segments }) {
  const canvas = $("map");
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const colors = { small_new: color("--a"), small_kept: color("--b"), large_new: color("--d"), large_kept: color("--c") };
  const columns = Math.ceil(Math.sqrt(regions * 8));
  const side = canvas.width / columns;
  canvas.height = Math.ceil(regions / columns) * side;
  const cell = (region, fill, alpha) => {
    context.globalAlpha = alpha;
    context.fillStyle = fill;
    context.fillRect((region % columns) * side, Math.floor(region / columns) * side, Math.max(side - 1, 1), Math.max(side - 1, 1));
  };
  for (let region = 0; region < regions; region += 1) cell(region, color("--line"), 0.6);
  for (const segment of segments) {
    const full = Math.min(1, segment.live_bytes / (segment.regions * size));
    for (let n = 0; n < segment.regions; n += 1) cell(segment.first + n, colors[segment.kind], 0.25 + 0.75 * full);
  }
  context.globalAlpha = 1;
}

async function loadConfig() {
  const config = await ask("/api/config");
  $("mmap_threshold").value = config.mmap_threshold;
  $("enable_sendfile").checked = config.enable_sendfile;
  $("adaptive").checked = config.adaptive;
}

$("purge-scope").onchange = () => {
  const all = $("purge-scope").value === "all";
  $("purge-value").disabled = all;
  $("purge-value").required = !all;
};

$("purge").onsubmit = async (event) => {
  event.preventDefault();
  const scope = $("purge-scope").value;
  const what = scope === "all" ? { all: true } : { [scope]: $("purge-value").value };
  if (scope === "all" && !confirm(`Purge every object of this ${members.alone() ? "node" : "cluster"}?`)) return;
  try {
    const { purged, complete } = await ask("/api/purge", "POST", what);
    $("purge-said").textContent = `${number(purged)}${complete === false ? " or more" : ""} purged`;
  } catch (error) {
    $("purge-said").textContent = error.message;
  }
};

$("config").onsubmit = async (event) => {
  event.preventDefault();
  const change = {
    mmap_threshold: Number($("mmap_threshold").value),
    enable_sendfile: $("enable_sendfile").checked,
    adaptive: $("adaptive").checked,
  };
  try {
    await ask("/api/config", "PATCH", change);
    await loadConfig();
    $("config-said").textContent = "in force";
  } catch (error) {
    $("config-said").textContent = error.message;
  }
};

// Why a WebSocket was refused is said to those who ask without upgrading, which is answered with 426.
async function sayWhy() {
  const answer = await fetch("/events", { headers: headers() }).catch(() => null);
  const why = answer && answer.status !== 426 ? await answer.json().catch(() => null) : null;
  if (why?.detail && $("state").dataset.state === "lost") $("state").textContent = why.detail;
}

const members = new Members(ask);

function listen() {
  feed?.close();
  feed = new Feed("/events", {
    token: $("token").value,
    onEvent: (event) => (event.kind === "stats" ? show(event) : list(event)),
    onState: (state) => {
      $("state").dataset.state = state;
      $("state").textContent = { open: "live", lost: "the node does not answer", connecting: "connecting" }[state];
      if (state === "lost") sayWhy();
      if (state === "open") {
        loadConfig().catch(() => {});
        refresh();
        members.start();
      }
    },
  });
}

$("token").value = sessionStorage.getItem("token") ?? "";
$("token").onchange = () => {
  sessionStorage.setItem("token", $("token").value);
  listen();
};
setInterval(refresh, 5000);
listen();
