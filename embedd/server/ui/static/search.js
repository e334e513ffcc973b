// Search in lines that are pasted or dropped: by cosine, then by a reranker.

import { post } from "./api.js";
import { cosine } from "./maths.js";
import { Message, ModelChoice, Progress, chooseModel, plural, useAction, useKept, whole, working } from "./parts.js";
import { html, useRef, useState } from "./vendor/preact.js";

const MAX_LINES = 2000;
const BATCH = 128; // lines of a request: the bar moves, and the server serves others between
const SHOWN = 20;
const LONG = 400; // characters of a text above which the rest is folded

/** The texts of a file: of each line of JSON its field `text`, else the line itself. */
function readLines(content) {
  const texts = content.split("\n").map((line) => {
    if (!line.startsWith("{")) return line.trim();
    try {
      const row = JSON.parse(line);
      return String(row.text ?? row.content ?? Object.values(row).find((one) => typeof one === "string") ?? "");
    } catch {
      return line.trim();
    }
  });
  return texts.filter(Boolean);
}

export function Search({ models, rerankers, loaded, refresh }) {
  const [content, setContent] = useKept("search.content", "");
  const [question, setQuestion] = useKept("search.question", "");
  const [model, setModel] = useKept("search.model", "");
  const [reranker, setReranker] = useKept("search.reranker", "");
  const [done, setDone] = useState(null);
  const [found, setFound] = useKept("search.found", null);
  const index = useRef({ key: null, texts: [], vectors: [], cuts: new Map() });
  const chosen = chooseModel(models, model, loaded);
  const all = readLines(content);
  const texts = all.slice(0, MAX_LINES);

  const search = useAction(async () => {
    const key = `${chosen}\n${texts.join("\n")}`;
    setModel(chosen);
    if (index.current.key !== key) {
      const [vectors, cuts] = [[], new Map()];
      try {
        for (let start = 0; start < texts.length; start += BATCH) {
          setDone({ done: start, total: texts.length });
          const input = texts.slice(start, start + BATCH);
          const reply = await post("api/embed", { model: chosen, input, input_type: "document" });
          vectors.push(...reply.embeddings);
          for (const cut of reply.truncated ?? []) cuts.set(start + cut.index, cut);
        }
      } finally {
        setDone(null);
      }
      index.current = { key, texts, vectors, cuts };
    }
    const reply = await post("api/embed", { model: chosen, input: question, input_type: "query" });
    const ranked = index.current.vectors
      .map((vector, i) => ({ text: texts[i], cut: index.current.cuts.get(i), score: cosine(vector, reply.embeddings[0]) }))
      .sort((a, b) => b.score - a.score)
      .slice(0, SHOWN);
    setFound({ ranked, reranked: null });
    if (reranker) setFound({ ranked, reranked: await rerank(reranker, question, ranked) });
    await refresh();
  });
  const drop = async (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) setContent(await file.text());
  };
  if (!models.length) return html`<section><h2>Search</h2><p>Pull a model that makes vectors first: see <a href="#models">Models</a>.</p></section>`;
  return html`<section aria-labelledby="search-title">
      <h2 id="search-title">Search</h2>
      <form onSubmit=${(event) => {
        event.preventDefault();
        search.start();
      }}>
        <label class="field"><span>Texts: paste lines, or drop a .txt or .jsonl file (${plural(texts.length, "line")}${
          all.length > MAX_LINES ? ` of ${whole(all.length)}: the first ${whole(MAX_LINES)} are searched` : `, at most ${whole(MAX_LINES)}`})</span>
          <textarea rows="6" value=${content} onInput=${(event) => setContent(event.target.value)}
            onDragOver=${(event) => event.preventDefault()} onDrop=${drop}></textarea></label>
        <label class="field"><span>Question</span>
          <input type="text" value=${question} onInput=${(event) => setQuestion(event.target.value)} /></label>
        <div class="row">
          <${ModelChoice} models=${models} value=${chosen} onChange=${setModel} />
          <${ModelChoice} models=${rerankers} value=${reranker} onChange=${setReranker} label="Reranker"
            none=${rerankers.length ? "none" : "none in the store"} />
          <button type="submit" disabled=${search.busy || !texts.length || !question.trim()}>${search.busy ? working(chosen, loaded, "Searching …") : "Search"}</button>
        </div>
      </form>
      ${done && html`<${Progress} label="computing the vectors of the texts" ...${done} />`}
      <${Message} error=${search.error} />
    </section>
    ${found && html`<section aria-labelledby="found-title"><h2 id="found-title">Found</h2>
      <div class="columns">
        <${Ranking} title="By cosine" rows=${found.ranked} />
        ${found.reranked && html`<${Ranking} title="By the reranker" rows=${found.reranked} />`}
      </div></section>`}`;
}

async function rerank(model, query, ranked) {
  const documents = ranked.map((row) => row.text);
  const { results } = await post("v1/rerank", { model, query, documents });
  return results.map((one) => ({ text: documents[one.index], score: one.relevance_score, before: one.index + 1 }));
}

const Ranking = ({ title, rows }) => html`<div>
  <h3>${title}</h3>
  <ol class="ranking">${rows.map((row, i) => html`<li key=${i}>
    <div class="row"><meter min="0" max="1" value=${Math.max(0, row.score)} aria-label="score"></meter>
      <span class="number">${row.score.toFixed(3)}</span>
      ${row.before && html`<span class="detail">was ${row.before}</span>`}
      ${row.cut && html`<span class="detail">cut: its first ${whole(row.cut.kept)} of ${plural(row.cut.tokens, "token")} count</span>`}</div>
    <${Text} text=${row.text} /></li>`)}</ol>
</div>`;

/** A text that was found; the rest of a long one opens on demand. */
const Text = ({ text }) =>
  text.length <= LONG
    ? html`<p>${text}</p>`
    : html`<details><summary>${text.slice(0, LONG)} …</summary><p>${text.slice(LONG)}</p></details>`;
