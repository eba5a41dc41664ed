"use strict";
// Asks /v1/status once a second and shows it. Everything shown is put in as text, never as markup.

const $ = (id) => document.getElementById(id);
const KEPT = 120; // points of a line
const series = {};
let before = null; // the counts of the last look, to tell a rate
let known = []; // models of the select box
let key = ""; // what the API asks for, where it has keys; forgotten with the page

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  $("unlock").hidden = response.status !== 401;
  return response;
}

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

function number(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (typeof x !== "number") return typeof x === "object" ? JSON.stringify(x) : String(x);
  if (Number.isInteger(x)) return x.toLocaleString("en").replaceAll(",", "\u202f");
  const size = Math.abs(x);
  if (size >= 1000) return Math.round(x).toLocaleString("en").replaceAll(",", "\u202f");
  if (size !== 0 && size < 0.0005) return x.toExponential(1);
  return x.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : digits);
}

function ms(x) {
  if (x === null || x === undefined) return "–";
  if (x < 1000) return `${x < 10 ? x.toFixed(1) : Math.round(x)}\u202fms`;
  if (x < 60e3) return `${(x / 1000).toFixed(1)}\u202fs`;
  if (x < 3600e3) return `${Math.round(x / 60e3)}\u202fmin`;
  if (x < 86400e3) return `${Math.round(x / 3600e3)}\u202fh`;
  return `${Math.round(x / 86400e3)}\u202fd`;
}

function keep(name, value) {
  const points = (series[name] ??= []);
  if (typeof value === "number" && Number.isFinite(value)) points.push(value);
  if (points.length > KEPT) points.shift();
  return points;
}

// Lines share one scale; the first one is filled where it starts from zero.
function draw(svg, lines, fromZero) {
  const all = lines.flatMap((line) => line.points);
  svg.replaceChildren();
  if (all.length < 2) return;
  let low = fromZero ? 0 : Math.min(...all);
  let high = Math.max(...all);
  if (high === low) { high += 1e-9 + Math.abs(high) * 0.1; low -= fromZero ? 0 : Math.abs(low) * 0.1; }
  const pad = (high - low) * 0.06;
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  lines.forEach(({ points, kind }, k) => {
    if (points.length < 2) return;
    const at = points.map((y, i) => {
      const x = 100 - ((points.length - 1 - i) * 100) / (Math.max(...lines.map((l) => l.points.length)) - 1);
      return `${x.toFixed(2)},${(100 - ((y - low + (fromZero ? 0 : pad)) / (high - low + 2 * pad)) * 100).toFixed(2)}`;
    });
    const path = (cls, d) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
      made.setAttribute("class", cls);
      made.setAttribute("d", d);
      svg.append(made);
    };
    if (k === 0 && fromZero) path("area", `M${at[0].split(",")[0]},100L${at.join("L")}L100,100Z`);
    path(kind, `M${at.join("L")}`);
  });
}

function workers(status) {
  const all = Object.values(status.workers);
  let events = 0, lag = 0;
  const fresh = { p50: null, p99: null };
  for (const worker of all) {
    for (const [name, n] of Object.entries(worker.counts ?? {})) if (name.startsWith("events:")) events += n;
    for (const [name, group] of Object.entries(worker.groups ?? {})) if (!name.includes("@")) lag += group.lag;
    for (const q of ["p50", "p99"]) {
      const x = worker.freshness_ms?.[q];
      if (typeof x === "number") fresh[q] = Math.max(fresh[q] ?? 0, x);
    }
  }
  const at = all.length ? Math.max(...all.map((worker) => worker.at_ms)) : null;
  return { count: all.length, events, lag, fresh, at };
}

function showNow(status) {
  const seen = workers(status);
  if (seen.count) {
    if (before && seen.at > before.at && seen.events >= before.events) {
      const rate = ((seen.events - before.events) * 1000) / (seen.at - before.at);
      $("rate").textContent = number(Math.round(rate));
      draw($("rate-line"), [{ points: keep("rate", rate), kind: "line" }], true);
    }
    if (!before || seen.at > before.at || seen.events < before.events) before = seen;
    $("total").textContent = `${number(seen.events)} so far, ${seen.count} worker${seen.count > 1 ? "s" : ""}`;
    $("lag").textContent = number(seen.lag);
    draw($("lag-line"), [{ points: keep("lag", seen.lag), kind: "line" }], true);
    $("fresh50").textContent = ms(seen.fresh.p50);
    $("fresh99").textContent = ms(seen.fresh.p99);
    draw($("fresh-line"), [{ points: keep("fresh", seen.fresh.p99), kind: "line" }], true);
  } else {
    for (const id of ["rate", "lag", "fresh50", "fresh99"]) $(id).textContent = "–";
    $("total").textContent = "no worker has told its status lately";
  }
  const api = status.api;
  $("predict50").textContent = ms(api.predict_ms.p50);
  $("predict99").textContent = ms(api.predict_ms.p99);
  draw($("predict-line"), [{ points: keep("predict", api.predict_ms.p99), kind: "line" }], true);
  const lost = api.prediction_log_lost ? `, ${number(api.prediction_log_lost)} log records lost` : "";
  $("asked").textContent = `p50 / p99 of ${number(api.predictions_last_minute)} in the last minute${lost}`;
}

const HEADLINE = ["LogLoss", "ROCAUC", "Accuracy", "CrossEntropy", "MAE", "RMSE", "R2"];
const HIGHER = new Set(["ROCAUC", "Accuracy", "AveragePrecision", "R2", "F1"]);

function headline(figures, base) {
  const names = Object.keys(figures);
  return HEADLINE.find((name) => name in figures && name in base) ?? names[0];
}

function showModels(models) {
  const cards = Object.entries(models).map(([name, model]) => {
    const figures = model.figures?.progressive ?? {};
    const base = model.figures?.progressive_baseline ?? {};
    const head = el("div", { class: "head" }, el("b", {}, name), el("span", {}, model.task),
      el("span", { class: "version" }, `serves version ${number(model.served_version)}`));
    const card = el("article", {}, head);
    const chosen = headline(figures, base);
    if (!chosen) {
      card.append(el("p", { class: "empty" }, "Nothing learned yet: the first labels have to arrive."));
      return card;
    }
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${chosen} ${number(figures[chosen])}, baseline ${number(base[chosen])}`);
    draw(svg, [
      { points: keep(`${name}:${chosen}`, figures[chosen]), kind: "line" },
      { points: keep(`${name}:${chosen}:base`, base[chosen]), kind: "base" },
    ], false);
    const list = el("dl");
    for (const [metric, value] of Object.entries(figures)) {
      const dd = el("dd");
      const better = HIGHER.has(metric) ? value > base[metric] : value < base[metric];
      dd.append(el("span", metric in base ? { class: better ? "better" : "worse" } : {}, number(value)));
      if (metric in base) dd.append(el("em", {}, `baseline ${number(base[metric])}`));
      list.append(el("div", {}, el("dt", {}, metric), dd));
    }
    for (const [label, value] of [
      ["samples learned", model.learned_version],
      ["waiting for labels", model.pending],
    ]) if (typeof value === "number") list.append(el("div", {}, el("dt", {}, label), el("dd", {}, number(value))));
    if (typeof model.coverage === "number") {
      list.append(el("div", {}, el("dt", {}, "with a label of their own"), el("dd", {}, `${(model.coverage * 100).toFixed(1)} %`)));
    }
    const key = el("div", { class: "key" }, el("i"), `${chosen}, progressive`, el("i", { class: "base" }), "baseline: labels alone");
    card.append(svg, key, list);
    return card;
  });
  $("models").replaceChildren(...cards);
}

function tags(flags) {
  const cell = el("span");
  for (const flag of flags) {
    const warn = /^(late|approximate|fallback|sequential)/.test(flag);
    cell.append(el("span", { class: warn ? "tag warn" : "tag" }, flag.replace(/^unknown:(.*)/, "no history: $1")));
  }
  return cell;
}

function scoreText(score) {
  if (score === null || typeof score !== "object") return number(score, 4);
  const best = Object.entries(score).sort((a, b) => b[1] - a[1])[0];
  return best ? `${best[0]} ${number(best[1], 3)}` : "–";
}

function showNewest(newest) {
  $("none").hidden = newest.length > 0;
  $("newest").hidden = newest.length === 0;
  $("newest").tBodies[0].replaceChildren(...newest.map((one) => el("tr", {},
    el("td", {}, el("code", { title: one.id }, one.id)), el("td", {}, one.model), el("td", { class: "n" }, scoreText(one.score)),
    el("td", { class: "n" }, number(one.version)), el("td", { class: "n" }, ms(one.age_ms)), el("td", {}, tags(one.flags)))));
}

async function example() {
  const name = $("model").value;
  if (!name) return;
  const model = await (await ask(`/v1/models/${encodeURIComponent(name)}`)).json();
  $("event").value = JSON.stringify(model.example, null, 2);
  const url = `${location.origin}/v1/models/${name}/predict`;
  $("curl").textContent = `curl -s ${url} -d '${JSON.stringify(model.example)}'`;
}

function setModels(names) {
  if (names.join() === known.join()) return;
  known = names;
  $("model").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  example();
}

function showAnswer(answer) {
  const box = $("answer");
  if (answer.status) {
    box.replaceChildren(el("p", { class: "problem" }, `${answer.title}\n${answer.detail}`));
    return;
  }
  const shown = el("div", { class: "score" }, el("b", {}, scoreText(answer.score)));
  if (answer.decision !== undefined) shown.append(el("span", {}, `decision ${answer.decision}`));
  shown.append(el("small", {}, `version ${number(answer.version)}, newest event behind it ${answer.age_ms === null ? "unknown" : `${ms(answer.age_ms)} before`}`));
  box.replaceChildren(shown);
  if (typeof answer.score === "number" && answer.score >= 0 && answer.score <= 1) {
    const fill = el("i");
    fill.style.width = `${answer.score * 100}%`;
    box.append(el("div", { class: "bar" }, fill));
  }
  if (answer.flags.length) box.append(tags(answer.flags));
  box.append(el("div", { class: "features" }, ...answer.names.map((name, k) =>
    el("div", {}, el("span", {}, name), el("span", {}, answer.vector[k] === null ? "missing" : number(answer.vector[k], 4))))));
}

$("try").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const url = `/v1/models/${encodeURIComponent($("model").value)}/predict?explain=vector${$("ingest").checked ? "&ingest=true" : ""}`;
  const began = performance.now();
  try {
    const response = await ask(url, { method: "POST", headers: { "content-type": "application/json" }, body: $("event").value });
    const answer = await response.json();
    $("took").textContent = `${(performance.now() - began).toFixed(1)} ms in this browser`;
    showAnswer(answer);
  } catch (error) {
    showAnswer({ status: 0.1, title: "No answer", detail: String(error) });
  }
  look();
});
$("model").addEventListener("change", example);
$("fresh").addEventListener("click", example);

async function look() {
  const state = $("state");
  try {
    const response = await ask("/v1/status");
    if (response.status === 401 || response.status === 403) {
      state.className = "waiting";
      state.textContent = response.status === 401 ? "an API key is needed" : "this key may not read";
      return;
    }
    const status = await response.json();
    $("project").textContent = status.project;
    document.title = `Headrace: ${status.project}`;
    state.className = status.store === "up" ? "up" : "down";
    state.textContent = status.store === "up" ? "live" : "the store does not answer";
    setModels(Object.keys(status.models));
    showNow(status);
    showModels(status.models);
    showNewest(status.newest);
  } catch {
    state.className = "down";
    state.textContent = "the API does not answer";
  }
}

$("unlock").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  look();
});

async function follow() {
  if (!document.hidden) await look();
  setTimeout(follow, 1000);
}
follow();
