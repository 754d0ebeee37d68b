// The live page: polls one cumulative picture a second, and draws what changed. Text goes in as text, never as markup.
"use strict";

const POLL_MS = 1000;
const TIMEOUT_MS = 4000;
const KEPT = 90; // samples behind the small curves: a minute and a half
const RATE_SPAN_MS = 5000;
const SHARE_SPAN_MS = 20000;
const CAUSES = [
  ["none", "not negative"],
  ["assumption", "we misjudged"],
  ["information", "data was wrong"],
  ["execution", "page or agent failed"],
  ["timing", "wrong moment"],
  ["unknown", "unknown"],
];
const OUTCOMES = ["accepted", "converted", "declined", "dismissed", "ignored", "complained", "failed", "not_seen", "not_delivered"];
const SEEN = new Set(["accepted", "converted", "declined", "dismissed", "ignored", "complained"]);
const BADGES = {
  accepted: "good", converted: "good", declined: "", dismissed: "", ignored: "warn",
  failed: "bad", complained: "bad", not_seen: "", not_delivered: "",
};

const byId = (id) => document.getElementById(id);
const samples = []; // {now, data}, oldest first
const cards = new Map(); // decision_id → its <details>
let held = false;
let failures = 0;
let wake = null;

// ── small tools ────────────────────────────────────────────────────────────────────────────────────────────────────
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
/** A name that may break after an underscore. */
function setName(node, name) {
  if (node.textContent === name) return;
  node.replaceChildren();
  for (const part of name.split(/(?<=_)/)) node.append(part, document.createElement("wbr"));
}
const whole = (n) => Math.round(n).toLocaleString("en");
const percent = (share, digits = 1) => (share === null ? "–" : `${(100 * share).toFixed(digits)} %`);
const ratio = (part, all) => (all > 0 ? part / all : null);
const spoken = (name) => name.replaceAll("_", " ");
const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);
function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 2) return "now";
  if (s < 90) return `${s} s ago`;
  return s < 5400 ? `${Math.round(s / 60)} min ago` : `${Math.round(s / 3600)} h ago`;
}

// ── what the numbers say ───────────────────────────────────────────────────────────────────────────────────────────
const decided = (data) => (data.decisions.action || 0) + (data.decisions.none || 0);
const outcomeCount = (data, wanted) => sum(data.outcomes.filter((o) => wanted(o.outcome)), (o) => o.count);
const isYes = (outcome) => outcome === "accepted" || outcome === "converted";

/** Rates between the sample `end` and the one a span before it; null where nothing happened. */
function readings(end) {
  const last = samples[end];
  const before = (span) => {
    let i = end;
    while (i > 0 && last.now - samples[i].now < span) i -= 1;
    return samples[i];
  };
  const near = before(RATE_SPAN_MS);
  const far = before(SHARE_SPAN_MS);
  const seconds = (last.now - near.now) / 1000;
  const seen = outcomeCount(last.data, (o) => SEEN.has(o)) - outcomeCount(far.data, (o) => SEEN.has(o));
  const of = (wanted) => ratio(outcomeCount(last.data, wanted) - outcomeCount(far.data, wanted), seen);
  const latency = bucketDelta(far.data.latency.buckets, last.data.latency.buckets);
  return {
    rate: seconds > 0 ? (decided(last.data) - decided(near.data)) / seconds : null,
    accepted: of(isYes),
    ignored: of((o) => o === "ignored"),
    p50: quantile(latency, 0.5),
    p99: quantile(latency, 0.99),
  };
}

function bucketDelta(before, after) {
  const earlier = new Map(before.map(([le, count]) => [String(le), count]));
  return after.map(([le, count]) => [le, count - (earlier.get(String(le)) || 0)]);
}

/** Quantile of a cumulative histogram, linear within a bucket; the open last bucket answers with its lower edge. */
function quantile(buckets, q) {
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  if (total <= 0) return null;
  let lower = 0;
  let below = 0;
  for (const [le, count] of buckets) {
    if (count >= q * total) {
      const upper = Number(le);
      if (le === null || !Number.isFinite(upper)) return lower;
      return count > below ? lower + ((upper - lower) * (q * total - below)) / (count - below) : upper;
    }
    lower = Number(le);
    below = count;
  }
  return lower;
}

// ── drawing ────────────────────────────────────────────────────────────────────────────────────────────────────────
const SVG = "http://www.w3.org/2000/svg";

function sparkline(holder, values, fromZero) {
  let svg = holder.firstElementChild;
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 40");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const name of ["area", "line"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    holder.append(svg);
  }
  const known = values.filter((v) => v !== null);
  if (known.length < 2) return;
  const top = Math.max(...known);
  const bottom = fromZero ? 0 : Math.min(...known);
  const height = top - bottom || 1;
  const x = (i) => (100 * (KEPT - values.length + i)) / (KEPT - 1);
  const y = (v) => (37 - (33 * (v - bottom)) / height).toFixed(2);
  const points = values.map((v, i) => (v === null ? null : `${x(i).toFixed(2)} ${y(v)}`));
  const drawn = points.filter((p) => p !== null);
  const first = points.findIndex((p) => p !== null);
  const last = points.length - 1 - [...points].reverse().findIndex((p) => p !== null);
  const line = `M${drawn.join("L")}`;
  svg.lastElementChild.setAttribute("d", line);
  svg.firstElementChild.setAttribute("d", `${line}L${x(last).toFixed(2)} 40L${x(first).toFixed(2)} 40Z`);
}

function drawVital(id, number, note, values) {
  const card = byId(id);
  setText(card.querySelector(".number"), number);
  setText(card.querySelector(".note"), note);
  sparkline(card.querySelector(".spark"), values, true);
}

function drawVitals(data) {
  const history = samples.map((sample) => sample.readings);
  const now = history[history.length - 1];
  const seen = outcomeCount(data, (o) => SEEN.has(o));
  const all = decided(data);
  const silent = percent(ratio(data.decisions.none || 0, all), 0);
  const degraded = data.decisions.degraded ? ` · ${whole(data.decisions.degraded)} degraded` : "";
  drawVital("vital-rate", now.rate === null ? "–" : now.rate.toFixed(now.rate < 10 ? 1 : 0),
    all ? `${whole(all)} so far · silent in ${silent}${degraded}` : "none yet", history.map((r) => r.rate));
  const share = (wanted) => ratio(outcomeCount(data, wanted), seen);
  const overall = (part) => (seen ? `${percent(part)} of ${whole(seen)} so far` : "no outcome yet");
  drawVital("vital-accepted", percent(now.accepted), overall(share(isYes)), history.map((r) => r.accepted));
  drawVital("vital-ignored", percent(now.ignored), overall(share((o) => o === "ignored")), history.map((r) => r.ignored));
  drawVital("vital-latency", now.p50 === null ? "–" : now.p50.toFixed(1),
    now.p99 === null ? "none lately" : `99 of 100 within ${now.p99.toFixed(1)} ms`, history.map((r) => r.p50));
}

function drawFacts(data) {
  setText(byId("fact-catalog"), data.catalog || "none");
  setText(byId("fact-release"), data.release ? String(data.release) : "none");
  setText(byId("fact-snapshot"), data.snapshot ? whole(data.snapshot) : "prior");
  setText(byId("fact-learned"), whole(data.learned || 0));
}

function drawMix(data) {
  const total = sum(data.outcomes, (o) => o.count);
  byId("mix-empty").hidden = total > 0;
  byId("legend").hidden = total === 0;
  const mix = byId("mix");
  const names = OUTCOMES.filter((name) => data.outcomes.some((o) => o.outcome === name && o.count > 0));
  const counts = names.map((name) => sum(data.outcomes.filter((o) => o.outcome === name), (o) => o.count));
  const most = Math.max(1, ...counts);
  const shownCauses = new Set();
  names.forEach((name, row) => {
    let item = mix.children[row];
    if (!item || item.dataset.outcome !== name) {
      item = make("li");
      item.dataset.outcome = name;
      item.append(make("span", "", spoken(name)), make("span", "bar"), make("span", "count"));
      item.lastElementChild.append(make("b"), document.createTextNode(""));
      if (mix.children[row]) mix.replaceChild(item, mix.children[row]);
      else mix.append(item);
    }
    const [, bar, count] = item.children;
    const said = [];
    for (const [cause, label] of CAUSES) {
      const here = data.outcomes.filter((o) => o.outcome === name && (o.cause || "none") === cause);
      const n = sum(here, (o) => o.count);
      let part = bar.querySelector(`[data-cause="${cause}"]`);
      if (!n) {
        if (part) part.remove();
        continue;
      }
      shownCauses.add(cause);
      said.push(`${label} ${whole(n)}`);
      if (!part) {
        part = make("span");
        part.dataset.cause = cause;
        bar.append(part);
      }
      part.style.width = `${(100 * n) / most}%`;
      part.title = `${label}: ${whole(n)}`;
    }
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", said.join(", "));
    setText(count.firstElementChild, whole(counts[row]));
    count.lastChild.nodeValue = `  ${percent(counts[row] / total)}`;
  });
  while (mix.children.length > names.length) mix.lastElementChild.remove();
  for (const item of byId("legend").children) item.hidden = !shownCauses.has(item.dataset.cause);
}

function drawStrain(data) {
  const buckets = data.strain.buckets;
  const total = buckets.length ? buckets[buckets.length - 1][1] : 0;
  byId("strain-empty").hidden = total > 0;
  byId("strain").hidden = total === 0;
  byId("strain").nextElementSibling.hidden = total === 0;
  if (!total) return;
  const holder = byId("strain");
  let below = 0;
  let lower = 0;
  let worn = 0;
  const columns = [];
  for (const [le, count] of buckets) {
    const upper = le === null || !Number.isFinite(Number(le)) ? 1 : Math.min(Number(le), 1);
    if (upper > lower) columns.push({ lower, upper, n: count - below });
    else if (columns.length) columns[columns.length - 1].n += count - below;
    below = count;
    lower = Math.max(lower, upper);
  }
  const most = Math.max(1, ...columns.map((c) => c.n));
  columns.forEach((column, i) => {
    let node = holder.children[i];
    if (!node) {
      node = make("div", "column");
      node.append(make("div", "fill"));
      holder.append(node);
    }
    const middle = (column.lower + column.upper) / 2;
    node.dataset.zone = middle > 0.6 ? "worn" : middle < 0.4 ? "glad" : "neutral";
    node.title = `strain ${column.lower.toFixed(2)} to ${column.upper.toFixed(2)}: ${percent(column.n / total)}`;
    node.firstElementChild.style.height = `${(100 * column.n) / most}%`;
    if (middle > 0.6) worn += column.n;
  });
  while (holder.children.length > columns.length) holder.lastElementChild.remove();
  holder.setAttribute("role", "img");
  holder.setAttribute("aria-label", columns.map((c) => `${c.lower.toFixed(1)} to ${c.upper.toFixed(1)}: ${percent(c.n / total, 0)}`).join(", "));
  setText(byId("strain-note"), `${percent(worn / total, 0)} of decisions were for strained customers (above 0.6).`);
}

function drawActions(data) {
  const rows = [...data.actions].filter((a) => a.shown > 0).sort((a, b) => b.shown - a.shown || (a.action < b.action ? -1 : 1));
  byId("actions-empty").hidden = rows.length > 0;
  byId("actions").hidden = rows.length === 0;
  setText(byId("placements"), data.placements.length
    ? `Asked for by ${data.placements.map((p) => `${p.placement} ${whole(p.count)}`).join(" · ")}`
    : "");
  const body = byId("actions").tBodies[0];
  const best = Math.max(0.01, ...rows.map((a) => a.accepted / a.shown));
  const worst = Math.max(0.01, ...rows.map((a) => a.negative / a.shown));
  rows.forEach((action, i) => {
    let row = body.children[i];
    if (!row) {
      row = make("tr");
      const name = make("th");
      name.scope = "row";
      row.append(name, make("td", "num"), rateCell("num"), rateCell("num negative"));
      body.append(row);
    }
    const [name, shown, accepted, negative] = row.children;
    setName(name, action.action);
    setText(shown, whole(action.shown));
    drawRate(accepted, action.accepted / action.shown, best);
    drawRate(negative, action.negative / action.shown, worst);
  });
  while (body.children.length > rows.length) body.lastElementChild.remove();
}
function rateCell(className) {
  const cell = make("td", className);
  const bar = make("span", "rate");
  bar.setAttribute("aria-hidden", "true");
  bar.append(make("i"));
  cell.append(bar, make("span"));
  return cell;
}
function drawRate(cell, share, most) {
  cell.querySelector("i").style.width = `${(100 * share) / most}%`;
  setText(cell.lastElementChild, percent(share));
}

// ── the latest decisions ───────────────────────────────────────────────────────────────────────────────────────────
function decisionCard(decision) {
  const card = make("details");
  const summary = make("summary");
  summary.append(make("span", "when"), make("span", "what"), make("span", "badge"), make("span", "whom"));
  card.append(summary, make("div", "why"));
  card.addEventListener("toggle", showHold);
  fillCard(card, decision);
  return card;
}

function fillCard(card, decision) {
  const [, what, badge, whom] = card.firstElementChild.children;
  const shown = decision.slots.filter((slot) => slot.action);
  setText(what, shown.length ? shown.map((slot) => slot.action).join(", ") : "silence");
  what.classList.toggle("silent", shown.length === 0);
  setText(whom, `${decision.customer_id} · ${decision.placement}`);
  const outcome = shown.map((slot) => slot.outcome).find((o) => o) || "";
  badge.hidden = shown.length === 0;
  setText(badge, outcome ? spoken(outcome) : "open");
  badge.dataset.kind = BADGES[outcome] || "";
  card.dataset.at = String(decision.at_ms);
  const stamp = JSON.stringify([decision.words, decision.slots.map((s) => s.outcome)]);
  if (card.dataset.stamp === stamp) return;
  card.dataset.stamp = stamp;
  const words = decision.words || [];
  const isNot = (word) => word.startsWith("not ");
  const figures = decision.slots
    .filter((slot) => slot.propensity !== null && slot.propensity !== undefined)
    .map((slot) => `slot ${slot.slot}: drawn with chance ${percent(slot.propensity)}` +
      (slot.action && slot.p_response !== null ? `, acceptance expected ${percent(slot.p_response)}` : "") +
      (slot.action && slot.outcome ? `, became ${spoken(slot.outcome)}` : ""));
  const degraded = decision.degraded.length ? [`degraded: ${decision.degraded.join(", ")}`] : [];
  const why = card.lastElementChild;
  why.replaceChildren();
  section(why, "Why", words.filter((word) => !isNot(word)));
  section(why, "Why not", words.filter(isNot).map((word) => word.slice(4)));
  section(why, "Record", [...figures, ...degraded, `decided in ${Number(decision.took_ms).toFixed(1)} ms · ${decision.decision_id}`],
    "figures");
}
function section(holder, title, lines, className) {
  if (!lines.length) return;
  const list = make("ul", className || "");
  for (const line of lines) list.append(make("li", "", inLocalTime(line)));
  holder.append(make("h3", "", title), list);
}

/** The record speaks in epoch milliseconds and seconds; people do not. */
function inLocalTime(line) {
  return line
    .replace(/until (\d{13})\b/g, (_, ms) => `until ${new Date(Number(ms)).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" })}`)
    .replace(/\bper (\d+) s\b/g, (_, s) => `per ${duration(Number(s))}`);
}
function duration(s) {
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (s >= size && s % size === 0) return s === size ? unit : `${s / size} ${unit}s`;
  }
  return `${s} s`;
}

const reading = () => held || [...cards.values()].some((card) => card.open);
function showHold() {
  const on = reading();
  byId("hold").setAttribute("aria-pressed", String(on));
  setText(byId("hold"), on ? "Let it run" : "Hold");
  setText(byId("latest-lead"), on
    ? "Held while you read; outcomes still arrive."
    : "Open one to read why this, and why not that.");
}

function drawLatest(data) {
  byId("latest-empty").hidden = data.latest.length > 0 || cards.size > 0;
  byId("hold").hidden = cards.size === 0 && data.latest.length === 0;
  const list = byId("latest");
  const busy = reading() && cards.size > 0;
  for (const decision of data.latest) {
    const card = cards.get(decision.decision_id);
    if (card) fillCard(card, decision);
  }
  if (!busy) {
    const wanted = data.latest.slice(0, 10);
    const keep = new Set(wanted.map((decision) => decision.decision_id));
    for (const [id, card] of cards) {
      if (keep.has(id)) continue;
      card.remove();
      cards.delete(id);
    }
    wanted.forEach((decision, i) => {
      let card = cards.get(decision.decision_id);
      if (!card) {
        card = decisionCard(decision);
        cards.set(decision.decision_id, card);
      }
      if (list.children[i] !== card) list.insertBefore(card, list.children[i] || null);
    });
  }
  for (const card of cards.values()) {
    setText(card.querySelector(".when"), ago(data.now_ms - Number(card.dataset.at)));
  }
}

// ── the loop ───────────────────────────────────────────────────────────────────────────────────────────────────────
function say(state, text) {
  const status = byId("status");
  status.dataset.state = state;
  setText(status, text);
}
function banner(text) {
  byId("banner").hidden = !text;
  setText(byId("banner-text"), text);
}

function accept(data) {
  const last = samples[samples.length - 1];
  if (last && (decided(data) < decided(last.data) || data.now_ms < last.now)) samples.length = 0; // the service restarted
  if (!samples.length || data.now_ms > samples[samples.length - 1].now) {
    samples.push({ now: data.now_ms, data, readings: null });
  }
  if (samples.length > KEPT) samples.shift();
  samples[samples.length - 1].readings = readings(samples.length - 1);
  const old = samples[samples.length - 30];
  if (old) old.data = { ...old.data, latest: [] }; // only its counters are read again
  const moving = samples[samples.length - 1].readings.rate > 0;
  const asleep = !data.release;
  say(asleep || !moving ? "idle" : "live", asleep ? "no catalog" : moving ? "live" : "quiet");
  banner(asleep ? "Nothing is published yet, so nothing can be decided. Publish a catalog: nbx catalog publish FILE" : "");
  drawFacts(data);
  drawVitals(data);
  drawMix(data);
  drawStrain(data);
  drawLatest(data);
  drawActions(data);
}

async function poll() {
  try {
    const answer = await fetch("/v1/console/live", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (answer.status === 401 || answer.status === 403) {
      say("away", "key needed");
      banner("The service shows its inside to a browser on its own machine, or to an API key with the scope audit.");
      failures += 1;
    } else if (!answer.ok) {
      throw new Error(`HTTP ${answer.status}`);
    } else {
      accept(await answer.json());
      failures = 0;
    }
  } catch (error) {
    failures += 1;
    if (failures > 1) {
      say("away", "away");
      banner(`The service does not answer (${error.message}); trying again. What is below is the last that was heard.`);
    }
  }
  const backOff = Math.min(POLL_MS * 2 ** Math.max(failures - 1, 0), 8000);
  wake = setTimeout(poll, document.hidden ? 5000 : backOff);
}

for (const [cause, label] of CAUSES) {
  const item = make("li", "", cause === "none" ? label : `${cause}: ${label}`);
  if (cause === "unknown") item.textContent = "unknown";
  item.dataset.cause = cause;
  byId("legend").append(item);
}
byId("hold").addEventListener("click", () => {
  held = !reading();
  if (!held) for (const card of cards.values()) card.open = false;
  showHold();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || failures) return;
  clearTimeout(wake);
  poll();
});
poll();
