// What the server does now: the last ten minutes, then a sample each second.

import { events } from "./api.js";
import { quantile } from "./maths.js";
import { Message, bytes, milliseconds, whole } from "./parts.js";
import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact.js";

const KEPT = 600;
const RATE_OVER = 5; // samples between which a rate is taken
const RETRY = 3000;

export function Live() {
  const [samples, setSamples] = useState([]);
  const [error, setError] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    let timer = null;
    const follow = async () => {
      try {
        let first = true;
        for await (const batch of events("ui/live", abort.signal)) {
          const fresh = first;
          first = false;
          setError(null);
          setSamples((known) => (fresh ? batch : [...known, ...batch]).slice(-KEPT));
        }
      } catch (caught) {
        if (caught.name === "AbortError") return;
        setError(caught);
      }
      if (!abort.signal.aborted) timer = setTimeout(follow, RETRY);
    };
    follow();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, []);
  const now = samples.at(-1);
  return html`<section aria-labelledby="live-title"><h2 id="live-title">Live</h2>
    <${Message} error=${error} />
    ${now ? html`<${Figures} samples=${samples} now=${now} /><${Charts} samples=${samples} /><${Totals} now=${now} />`
          : html`<p>Waiting for the first sample …</p>`}
  </section>`;
}

/** What happened between a sample and the one `RATE_OVER` before it. */
function between(samples, i) {
  const [before, after] = [samples[Math.max(0, i - RATE_OVER)], samples[i]];
  const seconds = after.time - before.time;
  const grown = (field) => Math.max(0, after[field] - before[field]);
  const queue = Object.fromEntries(
    Object.entries(after.queue).map(([bound, count]) => [bound, count - (before.queue[bound] ?? 0)]),
  );
  const [batches, looked] = [grown("batches"), grown("cache_hits") + grown("cache_misses")];
  return {
    tokens: seconds > 0 ? grown("tokens") / seconds : 0,
    median: quantile(0.5, queue),
    slow: quantile(0.95, queue),
    least: Math.min(...Object.keys(queue).filter((bound) => bound !== "+Inf").map(Number)),
    fill: batches && after.batch_limit ? Math.min(1, grown("batched_tokens") / batches / after.batch_limit) : null,
    hits: looked ? grown("cache_hits") / looked : null,
  };
}

const percent = (share) => (share == null ? "–" : `${Math.round(100 * share)} %`);
// In the lowest bucket of the histogram, times are not distinguished.
const atLeast = (value, least) => (value != null && value < least ? `< ${whole(1000 * least)} ms` : seconds(value));
const seconds = (value) => milliseconds(value == null ? null : 1000 * value);

function Figures({ samples, now }) {
  const last = between(samples, samples.length - 1);
  const [median, slow] = [last.median, last.slow].map((value) => atLeast(value, last.least));
  const memory = Object.values(now.memory).reduce((sum, one) => sum + one, 0);
  const figures = [
    ["Tokens a second", whole(last.tokens)],
    ["Time in the queue", median, median === slow ? "" : `95 %: ${slow}`],
    ["In flight", whole(now.in_flight), `${whole(now.waiting_requests)} wait`],
    ["Batch fill", percent(last.fill)],
    ["Cache hits", percent(last.hits), bytes(now.cache_bytes)],
    ["Memory set aside", bytes(memory)],
  ];
  return html`<dl class="figures">${figures.map(
    ([name, value, more]) => html`<div key=${name}><dt>${name}</dt><dd>${value}${more && html`<span class="detail"> ${more}</span>`}</dd></div>`,
  )}</dl>`;
}

/** A line for each model, on top of those before it: models of the same size would have one line. */
const stack = (names, samples) =>
  names.map((name, i) => [name, samples.map(({ memory }) =>
    memory[name] == null ? null : names.slice(0, i + 1).reduce((sum, one) => sum + (memory[one] ?? 0), 0))]);

function Charts({ samples }) {
  const times = samples.map((one) => one.time);
  const rates = useMemo(() => samples.map((_, i) => between(samples, i)), [samples]);
  const names = [...new Set(samples.flatMap((one) => Object.keys(one.memory)))];
  const of = (field) => rates.map((one) => one[field]);
  return html`<div class="charts">
    <${Chart} title="Tokens a second" times=${times} lines=${[["tokens", of("tokens")]]} format=${whole} steps=${WHOLE_STEPS} />
    <${Chart} title="Time in the queue" times=${times} lines=${[["median", of("median")], ["95 %", of("slow")]]} format=${seconds} />
    <${Chart} title="Requests" times=${times} format=${whole} steps=${WHOLE_STEPS} lines=${[
      ["in flight", samples.map((one) => one.in_flight)], ["waiting", samples.map((one) => one.waiting_requests)]]} />
    <${Chart} title="Batch fill" times=${times} lines=${[["share of the largest batch", of("fill")]]} format=${percent} />
    <${Chart} title="Cache hits" times=${times} lines=${[["share of look-ups", of("hits")]]} format=${percent} />
    <${Chart} title=${names.length > 1 ? "Memory set aside, one model on top of the other" : "Memory set aside for models"}
      times=${times} format=${bytes} lines=${stack(names, samples)} />
  </div>`;
}

// Distances of an axis of counts: none is between 0 and 1.
const WHOLE_STEPS = [0, 1, 2, 3, 4, 5, 6, 7, 8].flatMap((power) => [1, 2, 5].map((first) => first * 10 ** power));
const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5"];

/** The colour that a variable of the style sheet has in the present theme. */
function readColour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** Pixels of an axis that has room for its longest label. */
const widthOf = (labels) => Math.max(64, 20 + 8 * Math.max(...(labels ?? [""]).map((label) => label.length)));

const clock = (time) => new Date(1000 * time).toTimeString().slice(0, 8);

function Chart({ title, times, lines, format, steps }) {
  const place = useRef(null);
  const chart = useRef(null);
  const key = lines.map(([name]) => name).join("|");
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const change = () => setTheme((count) => count + 1);
    scheme.addEventListener("change", change);
    return () => scheme.removeEventListener("change", change);
  }, []);
  useEffect(() => {
    const axis = { stroke: readColour("--soft"), grid: { stroke: readColour("--grid") }, ticks: { stroke: readColour("--grid") } };
    const options = {
      width: place.current.clientWidth,
      height: 150,
      legend: { show: lines.length > 1, live: false },
      cursor: { points: { show: false } },
      scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: (_, labels) => widthOf(labels), incrs: steps, values: (_, values) => values.map(format) }],
      series: [{ label: "time", value: (_, time) => (time == null ? "–" : clock(time)) }, ...lines.map(([label], i) => ({ label, stroke: readColour(COLOURS[i % COLOURS.length]), width: 1.5, points: { show: false }, value: (_, value) => (value == null ? "–" : format(value)) }))],
    };
    chart.current = new uPlot(options, [times, ...lines.map(([, values]) => values)], place.current);
    const watcher = new ResizeObserver(() => chart.current.setSize({ width: place.current.clientWidth, height: 150 }));
    watcher.observe(place.current);
    return () => {
      watcher.disconnect();
      chart.current.destroy();
    };
  }, [key, theme]);
  useEffect(() => {
    chart.current.setData([times, ...lines.map(([, values]) => values)]);
  }, [times]);
  return html`<figure><figcaption>${title}</figcaption><div class="chart" ref=${place}></div></figure>`;
}

const TOTALS = {
  requests: "Requests answered",
  inputs: "Inputs answered",
  tokens: "Tokens computed",
  batches: "Batches computed",
  cache_hits: "Vectors from the cache",
  truncated: "Inputs truncated",
};

const Totals = ({ now }) => html`<h3>Since the start</h3>
  <dl class="figures">${Object.entries(TOTALS).map(
    ([field, name]) => html`<div key=${field}><dt>${name}</dt><dd data-figure=${field}>${whole(now[field])}</dd></div>`,
  )}</dl>`;
