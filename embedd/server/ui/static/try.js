// Texts and their vectors: cosines, a map, tokens, what shorter or smaller numbers cost.

import { address, measure, post, readKey } from "./api.js";
import { cosines, placeLabels, project, quantize, shorten } from "./maths.js";
import { Copy, Message, ModelChoice, chooseModel, milliseconds, plural, useAction, useKept, working } from "./parts.js";
import { html, useMemo, useState } from "./vendor/preact.js";

const EXAMPLE = [
  "How do I reset my password?",
  "I forgot the login for my account.",
  "The cat sleeps on the sofa.",
  "A kitten naps on the couch.",
  "Interest rates rose by a quarter point.",
].join("\n");
const MAX_TEXTS = 32;
const MAX_SHOWN_TOKENS = 400;
const DTYPES = [
  ["float32", 4],
  ["float16", 2],
  ["int8", 1],
  ["binary", 1 / 8],
];

export function Try({ models, loaded, refresh }) {
  const [text, setText] = useKept("try.text", EXAMPLE);
  const [model, setModel] = useKept("try.model", "");
  const [type, setType] = useKept("try.type", "");
  const [result, setResult] = useKept("try.result", null);
  const chosen = chooseModel(models, model, loaded);
  const texts = text.split("\n").filter((line) => line.trim()).slice(0, MAX_TEXTS);

  const embed = useAction(async () => {
    const body = { model: chosen, input: texts, ...(type && { input_type: type }) };
    setModel(chosen);
    const [reply, tokens, about] = await Promise.all([
      measure("api/embed", body),
      post("tokenize", { model: chosen, inputs: texts }).catch(() => null),
      post("api/show", { model: chosen }).catch(() => null),
    ]);
    setResult({ ...reply, body, texts, tokens, prefix: findPrefix(about, type) });
    await refresh();
  });
  if (!models.length) return html`<section><h2>Try</h2><p>Pull a model that makes vectors first: see <a href="#models">Models</a>.</p></section>`;
  return html`<section aria-labelledby="try-title">
      <h2 id="try-title">Try</h2>
      <form onSubmit=${(event) => {
        event.preventDefault();
        embed.start();
      }}>
        <label class="field"><span>Texts, one per line (${plural(texts.length, "text")}, at most ${MAX_TEXTS})</span>
          <textarea rows="6" value=${text} onInput=${(event) => setText(event.target.value)}
            onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && texts.length && !embed.busy && embed.start()}></textarea></label>
        <div class="row">
          <${ModelChoice} models=${models} value=${chosen} onChange=${setModel} />
          <label class="field"><span>Input type</span>
            <select value=${type} onChange=${(event) => setType(event.target.value)}>
              <option value="">none</option><option value="query">query</option><option value="document">document</option>
            </select></label>
          <button type="submit" disabled=${embed.busy || !texts.length}>${embed.busy ? working(chosen, loaded, "Computing …") : "Compute"}</button>
        </div>
      </form>
      <${Message} error=${embed.error} />
    </section>
    ${result && html`<${Result} key=${result.headers.get("X-Request-Id")} result=${result} />`}`;
}

function findPrefix(about, type) {
  const line = about?.parameters?.split("\n").find((one) => one.startsWith(`${type}_prefix`));
  const value = line?.slice(`${type}_prefix`.length).trim();
  return type && value ? value : null;
}

function Result({ result }) {
  const full = result.data.embeddings;
  const length = full[0].length;
  const [dimensions, setDimensions] = useState(length);
  const [dtype, setDtype] = useState("float32");
  const reduced = useMemo(
    () => full.map((vector) => quantize(shorten(vector, dimensions), dtype)),
    [full, dimensions, dtype],
  );
  const matrix = useMemo(() => cosines(reduced), [reduced]);
  const size = dimensions * DTYPES.find(([name]) => name === dtype)[1];
  return html`
    <section aria-labelledby="cosines-title">
      <h2 id="cosines-title">Similarity</h2>
      <div class="row">
        <label class="field"><span>Dimensions: ${dimensions} of ${length}</span>
          <input type="range" min="1" max=${length} value=${dimensions}
            onInput=${(event) => setDimensions(Number(event.target.value))} /></label>
        <label class="field"><span>Numbers</span>
          <select value=${dtype} onChange=${(event) => setDtype(event.target.value)}>
            ${DTYPES.map(([name]) => html`<option value=${name}>${name}</option>`)}
          </select></label>
        <p class="detail">${Math.ceil(size)} bytes a vector. ${describeLoss(full, matrix)}</p>
      </div>
      <div class="columns">
        <${Matrix} texts=${result.texts} matrix=${matrix} />
        ${full.length > 2 && html`<${Map2d} texts=${result.texts} vectors=${reduced} />`}
      </div>
    </section>
    <${Tokens} result=${result} />
    <${Timings} result=${result} />
    <${Requests} result=${result} />`;
}

function describeLoss(full, matrix) {
  const exact = cosines(full);
  let worst = 0;
  exact.forEach((row, i) => row.forEach((value, j) => {
    worst = Math.max(worst, Math.abs(value - matrix[i][j]));
  }));
  if (!worst) return "Cosines do not change.";
  return `Cosines change by at most ${worst < 5e-5 ? "0.00005" : worst.toFixed(4)}.`;
}

const shortName = (text, most = 24) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Darker is more alike; the number stands in each cell, so colour alone says nothing. */
const Matrix = ({ texts, matrix }) => html`<div class="scroll" tabindex="0" role="region" aria-label="Cosine matrix">
  <table class="matrix">
    <caption class="hidden">Cosine of each pair of texts</caption>
    <thead><tr><td></td>${texts.map((text, i) => html`<th scope="col" title=${text}>${i + 1}</th>`)}</tr></thead>
    <tbody>${matrix.map(
      (row, i) => html`<tr><th scope="row" title=${texts[i]}>${i + 1} ${shortName(texts[i])}</th>
        ${row.map((value) => html`<td data-level=${Math.max(0, Math.min(10, Math.round(value * 10)))}>${value.toFixed(3)}</td>`)}</tr>`,
    )}</tbody>
  </table></div>`;

function Map2d({ texts, vectors }) {
  const places = useMemo(() => project(vectors), [vectors]);
  const most = Math.max(...places.flat().map(Math.abs)) || 1;
  const points = places.map(([x, y]) => [(x / most) * 100, (-y / most) * 55]);
  const labels = placeLabels(points);
  return html`<svg class="map" viewBox="-120 -70 240 140" role="img"
    aria-label=${`Map of the texts on their two principal axes: ${texts.map(
      (text, i) => `${shortName(text)} at ${places[i].map((one) => (one / most).toFixed(2)).join(", ")}`,
    ).join("; ")}`}>
    <line x1="-115" x2="115" y1="0" y2="0" class="axis" /><line y1="-65" y2="65" x1="0" x2="0" class="axis" />
    ${points.map(([x, y], i) => html`<g key=${i}><title>${texts[i]}</title><circle cx=${x} cy=${y} r="3" />
      <text x=${labels[i][0]} y=${labels[i][1] + 2.8} text-anchor="middle">${i + 1}</text></g>`)}
  </svg>`;
}

function Tokens({ result }) {
  if (!result.tokens) return null;
  const cuts = new Map((result.data.truncated ?? []).map((one) => [one.index, one]));
  return html`<section aria-labelledby="tokens-title">
    <h2 id="tokens-title">Tokens</h2>
    ${result.prefix && html`<p>Before each text stands the model's own prefix: <code>${result.prefix}</code></p>`}
    <ol class="tokens">${result.tokens.map((tokens, i) => {
      const own = tokens.filter((token) => !token.special);
      const cut = cuts.get(i);
      const kept = cut ? cut.kept - (tokens.length - own.length) : own.length;
      return html`<li key=${i}>
        <span class="detail">${plural(tokens.length, "token")}${cut ? `, ${cut.tokens - cut.kept} of them cut` : ""}</span>
        <div>${own.slice(0, MAX_SHOWN_TOKENS).map(
          (token, n) => html`<span class=${n < kept ? "token" : "token cut"} title=${`id ${token.id}`}>${token.text}</span>`,
        )}${own.length > MAX_SHOWN_TOKENS && html`<span class="detail"> … and ${own.length - MAX_SHOWN_TOKENS} more</span>`}</div>
      </li>`;
    })}</ol>
    ${cuts.size > 0 && html`<p class="detail">Struck out: more than the model reads. It is not in the vector.</p>`}
  </section>`;
}

function readTimings(headers) {
  const stages = (headers.get("Server-Timing") ?? "").split(",").map((stage) => {
    const [, name, duration] = stage.match(/([\w-]+);dur=([\d.]+)/) ?? [];
    return [name, Number(duration)];
  });
  return stages.filter(([name]) => name && name !== "total");
}

/** What of the answer was not computed for it, as the server says: "8 of 8 reused". */
const readReuse = (headers) => (headers.get("Server-Timing") ?? "").match(/cache;desc="([^"]+)"/)?.[1];

function Timings({ result }) {
  const stages = readTimings(result.headers);
  const reused = readReuse(result.headers);
  const total = stages.reduce((sum, [, duration]) => sum + duration, 0) || 1;
  return html`<section aria-labelledby="timings-title">
    <h2 id="timings-title">Time</h2>
    <p>${milliseconds(result.milliseconds)} in this browser; ${plural(result.data.prompt_eval_count, "token")};
      computed by <code>${result.headers.get("X-Embedd-Model")}</code>${reused && `; vectors from the cache: ${reused}`}</p>
    <ul class="stages">${stages.map(
      ([name, duration]) => html`<li key=${name}><span>${name}</span>
        <meter min="0" max=${total} value=${duration} aria-label=${name}></meter><span class="number">${milliseconds(duration)}</span></li>`,
    )}</ul>
  </section>`;
}

/** The first line of an example whose library cannot ask for the input type. */
const lacksType = (body) =>
  body.input_type ? `# Without the input type "${body.input_type}", for which this library has no field.\n` : "";

const LANGUAGES = {
  curl: (body, key) => `curl ${address("api/embed")}${key ? ` -H "Authorization: Bearer $EMBEDD_API_KEY"` : ""} -d '${JSON.stringify(
    body, null, 2).replaceAll("'", "'\\''")}'`,
  Python: (body, key) => `${lacksType(body)}import os, ollama  # pip install ollama

client = ollama.Client(${JSON.stringify(address())}${key ? ', headers={"Authorization": "Bearer " + os.environ["EMBEDD_API_KEY"]}' : ""})
texts = ${JSON.stringify(body.input, null, 4)}
vectors = client.embed(${JSON.stringify(body.model)}, texts).embeddings`,
  JavaScript: (body, key) => `const answer = await fetch(${JSON.stringify(address("api/embed"))}, {
  method: "POST",${key ? "\n  headers: { Authorization: `Bearer ${process.env.EMBEDD_API_KEY}` }," : ""}
  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),
});
const { embeddings } = await answer.json();`,
  LangChain: (body, key) => `${lacksType(body)}from langchain_ollama import OllamaEmbeddings  # pip install langchain-ollama

embeddings = OllamaEmbeddings(
    model=${JSON.stringify(body.model)}, base_url=${JSON.stringify(address())},${
      key ? '\n    client_kwargs={"headers": {"Authorization": "Bearer …"}},' : ""}
)
vectors = embeddings.embed_documents(${JSON.stringify(body.input, null, 4)})`,
};

function Requests({ result }) {
  const [language, setLanguage] = useState("curl");
  const code = LANGUAGES[language](result.body, Boolean(readKey()));
  return html`<section aria-labelledby="request-title">
    <h2 id="request-title">This request in your code</h2>
    <div class="row" role="group" aria-label="Language">
      ${Object.keys(LANGUAGES).map((name) => html`<button key=${name} type="button" class="quiet"
        aria-pressed=${name === language} onClick=${() => setLanguage(name)}>${name}</button>`)}
      <${Copy} text=${code} />
    </div>
    <pre tabindex="0" aria-label=${`Request in ${language}`}><code>${code}</code></pre>
  </section>`;
}
